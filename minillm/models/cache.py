"""The key/value cache: with it, decoding a token costs one token's computation."""

import torch
from torch import Tensor

from minillm.models.masks import DocumentMask, causal_mask_within_documents, positions_within_documents


class KeyValueCache:
    """Keys and values of the tokens so far, allocated once for a batch and written in place.

    All rows have the same `length`. In a forward pass, the network calls `positions_and_mask`, each of its attention
    layers calls `append`, and the network then sets `length`.

    Args:
        num_layers: attention layers of the network.
        shape: (B, H, capacity, D) of the keys, and of the values, of a layer; H: key/value heads.
        device: of the keys and values.
        dtype: of the keys and values.
    """

    def __init__(
        self, num_layers: int, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.documents = torch.zeros(shape[0], shape[2], device=device, dtype=torch.long)
        self.length = 0
        self._slots = torch.arange(shape[2], device=device)
        # The slot of the first token of each row's last document, (B, 1), and the mask of the slots from it on,
        # (B, 1, 1, capacity); both None if each row holds a single document.
        self._first: Tensor | None = None
        self._visible: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Maximum tokens per row."""
        return self.documents.size(1)

    def positions_and_mask(self, length: int, documents: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the positions and the attention mask of new tokens.

        A single token is cheap: its mask is a slice of the mask that was made for its document.

        Args:
            length: new tokens per row, T.
            documents: (B, T) as for `causal_mask_within_documents`; None: the tokens continue their row's document.

        Returns:
            The tokens' positions within their documents, (B, T) or (T,) int64; and the mask (B, 1, T, S), true where a
            new token attends to a cached or new one; None: causal.

        Raises:
            ValueError: the cache is too small.
        """
        start, end = self.length, self.length + length
        if end > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not for {end}")
        if documents is None and start == 0:
            self.documents.zero_()
            self._first = self._visible = None
        if documents is None and (start == 0 or length == 1):
            if self._first is None:
                return self._slots[start:end], None
            return start - self._first, None if self._visible is None else self._visible[..., :end]
        if documents is not None:
            self.documents[:, start:end] = documents
            self.documents[:, end:] = documents[:, -1:]  # later tokens without a number continue this document
        seen = self.documents[:, :end]
        positions = positions_within_documents(seen)
        first = end - 1 - positions[:, -1:]
        if first.any():
            self._first, self._visible = first, (self._slots >= first)[:, None, None]
        else:
            self._first = self._visible = None
        return positions[:, start:], causal_mask_within_documents(seen, start)[:, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values (B, H, T, D) of the newest tokens; return those of all tokens so far."""
        end = self.length + key.size(2)
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


def positions_and_mask(
    ids: Tensor, documents: Tensor | None, cache: KeyValueCache | None
) -> tuple[Tensor, Tensor | DocumentMask | None]:
    """Return the positions and the attention mask of new tokens, with or without a cache.

    Args:
        ids: (B, T) token ids.
        documents: (B, T), adjacent equal numbers are one document; None: each row is one document, or continues the
            last document in the cache.
        cache: the S - T earlier tokens; None: there are none.

    Returns:
        The tokens' positions within their documents, (T,) or (B, T) int64; and the mask for `attention`: (B, 1, T, S)
        bool, a `DocumentMask`, or None: causal.

    Raises:
        ValueError: the cache is too small.
    """
    if cache is not None:
        return cache.positions_and_mask(ids.size(1), documents)
    if documents is None:
        return torch.arange(ids.size(1), device=ids.device), None
    return positions_within_documents(documents), DocumentMask(documents)
