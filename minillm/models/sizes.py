"""Checks of a network's sizes."""

from minillm.errors import SettingError
from minillm.memory import MAX_LENGTH, check_memory

MAX_LAYERS = 1000  # the deepest transformer trained (DeepNet, Wang et al. 2022)
OBJECT_BYTES = 2**16  # of a block's Python objects, without its weights


def check_sizes(**sizes: int | None) -> None:
    """Check that sizes are at least 1 and within reason.

    Args:
        sizes: by name; None: not set.

    Raises:
        SettingError: a size is out of range.
    """
    most = {"num_layers": MAX_LAYERS, "max_length": MAX_LENGTH}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise SettingError(name, size, "must be at least 1")
        if size is not None and size > most.get(name, size):
            raise SettingError(name, size, f"must be at most {most[name]:,}")


def check_network_fits(vocab_size: int, embedding_dim: int, num_layers: int, per_layer: int, others: int) -> None:
    """Check that memory has room for a network, before it is built.

    Args:
        vocab_size: entries of the vocabulary.
        embedding_dim: width of the residual stream.
        num_layers: blocks.
        per_layer: weights of a block.
        others: numbers outside the blocks: weights, and intermediate values of the initialization.

    Raises:
        SettingError: it does not fit.
    """
    size = 4 * (num_layers * per_layer + others) + OBJECT_BYTES * num_layers
    what = f"the weights of the network, with num_layers={num_layers} and a vocabulary of {vocab_size:,},"
    check_memory("embedding_dim", embedding_dim, size, what)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number that are at most 16, for an error's advice.

    >>> divisors(32)
    [1, 2, 4, 8, 16]
    """
    return [divisor for divisor in range(1, min(number, 16) + 1) if number % divisor == 0]
