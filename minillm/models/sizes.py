"""What every network's sizes have in common."""

from minillm.errors import SettingError
from minillm.memory import MAX_LENGTH, check_memory

MAX_LAYERS = 1000  # the deepest that was ever trained (Wang et al. 2022, DeepNet)
PER_LAYER = 2**16  # bytes of a block apart from its weights: the objects that hold them


def check_sizes(**sizes: int | None) -> None:
    """Check that sizes are positive, and those of which it makes no sense to have so many not too large.

    Args:
        sizes: by name; one that is None is not set.

    Raises:
        SettingError: one that is not.
    """
    most = {"num_layers": MAX_LAYERS, "max_length": MAX_LENGTH}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise SettingError(name, size, "must be at least 1")
        if size is not None and size > most.get(name, size):
            raise SettingError(name, size, f"must be at most {most[name]:,}")


def check_network_fits(vocab_size: int, embedding_dim: int, num_layers: int, per_layer: int, others: int) -> None:
    """Check, before it is made, that memory has room for a network.

    Args:
        vocab_size: entries of the vocabulary.
        embedding_dim: width of the residual stream.
        num_layers: blocks.
        per_layer: weights of a block.
        others: weights, and numbers that are needed to make it, outside the blocks.

    Raises:
        SettingError: it has not.
    """
    size = 4 * (num_layers * per_layer + others) + PER_LAYER * num_layers
    what = f"the weights of the network, with num_layers={num_layers} and a vocabulary of {vocab_size:,},"
    check_memory("embedding_dim", embedding_dim, size, what)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number up to 16, to choose one from.

    >>> divisors(32)
    [1, 2, 4, 8, 16]
    """
    return [divisor for divisor in range(1, min(number, 16) + 1) if number % divisor == 0]
