"""What the networks share: a decoder's blocks, its cache, and logits from its last hidden states."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from minillm.models.cache import KeyValueCache


class Decoder(nn.Module, ABC):
    """Base of the networks: blocks between an embedding and a head (Radford et al. 2018).

    A subclass makes ``embedding``, ``blocks``, ``norm`` and ``head``, says how its keys and values are cached, and
    defines `hidden`.
    """

    embedding: nn.Embedding
    blocks: nn.ModuleList
    norm: Any  # a LayerNorm or RMSNorm
    head: nn.Linear
    cached_heads: int  # of keys, and of values, per block
    cached_dim: int  # channels of each

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``batch_size`` rows of at most ``capacity`` tokens."""
        weight = self.head.weight
        shape = (batch_size, self.cached_heads, capacity, self.cached_dim)
        return KeyValueCache(len(self.blocks), shape, weight.device, weight.dtype)

    @abstractmethod
    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the input of the head, (B, T, dim): the normalized output of the last block; see `forward`."""

    def forward(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Predict each next token.

        Args:
            ids: (B, T) token ids.
            documents: (B, T), adjacent equal numbers are one document, and attention stays within it; None: each row
                is one document, or continues the last document in the cache.
            cache: the earlier tokens; these are appended to it.

        Returns:
            (B, T, vocab_size) logits of the token after each.

        Raises:
            ValueError: more tokens than a network with learned positions has.
        """
        return self.head(self.hidden(ids, documents, cache))

    def run_blocks(self, x: Tensor, cache: KeyValueCache | None, *arguments: object) -> Tensor:
        """Return the normalized output of the last block, and lengthen the cache.

        Args:
            x: (B, T, dim), the input of the first block.
            cache: the earlier tokens.
            arguments: of each block, between its input and the cache.
        """
        for layer, block in enumerate(self.blocks):
            x = block(x, *arguments, cache, layer)
        if cache is not None:
            cache.length += x.size(1)
        return self.norm(x)
