"""The family of networks to choose from: a network's width decides the rest of its form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
CHANNELS_PER_LAYER = 64  # one block for each so many channels, less one; two blocks at least


@dataclass(frozen=True)
class Form:
    """The form of a network.

    Args:
        embedding_dim: channels.
        num_layers: blocks.
        num_heads: query heads per block.
        num_kv_heads: heads of keys and values.
    """

    embedding_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int

    @property
    def weights(self) -> int:
        """The weights in the blocks: queries, keys, values and projection, and the three matrices of SwiGLU."""
        dim, hidden = self.embedding_dim, -(-8 * self.embedding_dim // (3 * 64)) * 64
        attention = 2 * dim * dim + 2 * dim * dim * self.num_kv_heads // self.num_heads
        return self.num_layers * (attention + 3 * dim * hidden)


def heads(embedding_dim: int) -> tuple[int, int]:
    """Return the number of query heads for a width, and of the key-value heads that they share.

    A head has about 32 channels, from a width of 512 on about 64; an even number, since rotary positions turn pairs.

    >>> heads(64), heads(96), heads(256), heads(512), heads(100)
    ((2, 1), (3, 1), (8, 4), (8, 4), (2, 1))
    """
    most = max(1, embedding_dim // (32 if embedding_dim < 512 else 64))
    num_heads = max((number for number in range(1, most + 1) if embedding_dim % (2 * number) == 0), default=1)
    return num_heads, _shared(num_heads)


def _shared(num_heads: int) -> int:
    """Return the number of key-value heads: as many as can be shared by two or more query heads each."""
    return max((number for number in range(1, num_heads // 2 + 1) if num_heads % number == 0), default=1)


def forms(given: Mapping[str, Any]) -> list[Form]:
    """Return the forms to choose from, by rising width.

    Args:
        given: settings that the user has decided, by full name.
    """
    made: dict[int, Form] = {}
    is_open = "model.embedding_dim" not in given
    for width in WIDTHS if is_open else [given["model.embedding_dim"]]:
        num_heads, shared = max(1, given.get("model.num_heads", heads(width)[0])), given.get("model.num_kv_heads")
        if shared and "model.num_heads" not in given:
            num_heads = max(1, num_heads // shared) * shared
        if is_open:  # heads of an even number of channels
            width = 2 * num_heads * max(1, round(width / (2 * num_heads)))
        num_layers = given.get("model.num_layers") or max(2, round(width / CHANNELS_PER_LAYER) - 1)
        made[width] = Form(width, num_layers, num_heads, shared or _shared(num_heads))
    return list(made.values())
