"""The key/value cache: what makes decoding one token cost one token."""

import torch
from torch import Tensor

from minillm.models.placing import WithinDocuments, causal_mask_within_documents, positions_within_documents


class KeyValueCache:
    """Keys and values of the tokens seen so far, allocated once for a batch and written in place.

    All rows grow together; `length` tokens are seen so far. A network asks `place` where new
    tokens stand, each of its
    attention layers calls `append`, and in the end the network sets `length`.

    Args:
        num_layers: attention layers of the network.
        shape: (B, H, capacity, D) of each layer's keys and of its values; H counts the heads of keys and values.
        device: where they live.
        dtype: what they are stored in.
    """

    def __init__(
        self, num_layers: int, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.documents = torch.zeros(shape[0], shape[2], device=device, dtype=torch.long)
        self.length = 0
        self._slots = torch.arange(shape[2], device=device)
        # For each row's newest document: the slot of its first token (B, 1), and which slots are not before it,
        # (B, 1, 1, capacity); None where no row has anything before it.
        self._first: Tensor | None = None
        self._visible: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Tokens a row that the cache has room for."""
        return self.documents.size(1)

    def place(self, length: int, documents: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tell where the newest tokens stand and what they may look at.

        One token more costs next to nothing: its mask is a part of one made when its document began.

        Args:
            length: how many tokens a row come, T.
            documents: (B, T) as for `causal_mask_within_documents`; None: they go on with their row's document.

        Returns:
            Their positions within their documents, (B, T) or (T,) int64; and the mask (B, 1, T, S), true where one
            may look at a token so far or a new one, None where that is every token up to oneself.

        Raises:
            ValueError: there is no room for them.
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
            self.documents[:, end:] = documents[:, -1:]  # where tokens that come without a number belong
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


def place(
    ids: Tensor, documents: Tensor | None, cache: KeyValueCache | None
) -> tuple[Tensor, Tensor | WithinDocuments | None]:
    """Tell where the newest tokens of each row stand, and what they may look at.

    Args:
        ids: (B, T) token ids.
        documents: (B, T), equal numbers side by side belong to one document; None: each row is one document, or goes
            on with the one that the cache ends in.
        cache: the tokens before these, S - T of them; None: there are none.

    Returns:
        Their positions within their documents, (T,) or (B, T) int64; and the mask that `attention` takes: (B, 1, T, S),
        true where one may look at a token, packed documents, or None where that is every token up to oneself.

    Raises:
        ValueError: the cache has no room for them.
    """
    if cache is not None:
        return cache.place(ids.size(1), documents)
    if documents is None:
        return torch.arange(ids.size(1), device=ids.device), None
    return positions_within_documents(documents), WithinDocuments(documents)
