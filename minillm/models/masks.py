"""Positions and causal attention masks of rows that hold several documents."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def positions_within_documents(documents: Tensor) -> Tensor:
    """Return each token's position within its document.

    Args:
        documents: (B, T), adjacent equal numbers are one document.

    Returns:
        (B, T) int64.

    >>> positions_within_documents(torch.tensor([[7, 7, 7, 2, 2, 5]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    index = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    is_start = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(is_start, index, 0).cummax(dim=1).values


def causal_mask_within_documents(documents: Tensor, start: int = 0) -> Tensor:
    """Return the causal mask that keeps attention within documents.

    Args:
        documents: (B, S), equal numbers are one document.
        start: the first query; earlier tokens are only keys.

    Returns:
        (B, S - start, S) bool, true where a query (row) attends to a key (column).
    """
    position = torch.arange(documents.size(1), device=documents.device)
    return (documents[:, start:, None] == documents[:, None, :]) & (position <= position[start:, None])


class DocumentMask:
    """The causal mask of packed rows, in which attention stays within documents.

    Each form is computed at its first use, once for all layers.

    Args:
        documents: (B, T), equal numbers are one document.
    """

    def __init__(self, documents: Tensor) -> None:
        self.documents = documents
        self._dense: Tensor | None = None
        self._blocks: Any = None

    @property
    def dense(self) -> Tensor:
        """(B, 1, T, T) bool, true where a query (row) attends to a key (column)."""
        if self._dense is None:
            self._dense = causal_mask_within_documents(self.documents)[:, None]
        return self._dense

    @property
    def blocks(self) -> Any:
        """The mask as FlexAttention's ``BlockMask``, with which fully masked blocks are skipped."""
        if self._blocks is None:
            from torch.nn.attention.flex_attention import create_block_mask

            documents = self.documents

            def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (query >= key) & (documents[row, query] == documents[row, key])

            batch, length = documents.shape
            self._blocks = create_block_mask(attends, batch, None, length, length, device=documents.device)
        return self._blocks
