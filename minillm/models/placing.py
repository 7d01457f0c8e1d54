"""Where the tokens of a row stand within their documents, and what each may look at."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def positions_within_documents(documents: Tensor) -> Tensor:
    """Return each token's distance from the start of its document's run in the row.

    Args:
        documents: (B, T), equal numbers side by side belong to one document.

    Returns:
        (B, T) int64.

    >>> positions_within_documents(torch.tensor([[7, 7, 7, 2, 2, 5]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    index = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    is_start = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(is_start, index, 0).cummax(dim=1).values


def causal_mask_within_documents(documents: Tensor, start: int = 0) -> Tensor:
    """Return where attention may look: at tokens of the same document, not after oneself.

    Args:
        documents: (B, S), equal numbers side by side belong to one document.
        start: the first token that looks; those before it are only looked at.

    Returns:
        (B, S - start, S) bool, true where the row's token may look at the column's.
    """
    place = torch.arange(documents.size(1), device=documents.device)
    return (documents[:, start:, None] == documents[:, None, :]) & (place <= place[start:, None])


class WithinDocuments:
    """What each token of packed rows may look at: tokens of its own document, not after itself.

    Each form is made at its first use, once for all layers.

    Args:
        documents: (B, T), equal numbers side by side belong to one document.
    """

    def __init__(self, documents: Tensor) -> None:
        self.documents = documents
        self._dense: Tensor | None = None
        self._blocks: Any = None

    @property
    def dense(self) -> Tensor:
        """(B, 1, T, T) bool, true where the row's token may look at the column's."""
        if self._dense is None:
            self._dense = causal_mask_within_documents(self.documents)[:, None]
        return self._dense

    @property
    def blocks(self) -> Any:
        """The same as a ``BlockMask`` of FlexAttention: blocks of keys that no query sees are skipped."""
        if self._blocks is None:
            from torch.nn.attention.flex_attention import create_block_mask

            documents = self.documents

            def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (query >= key) & (documents[row, query] == documents[row, key])

            batch, length = documents.shape
            self._blocks = create_block_mask(sees, batch, None, length, length, device=documents.device)
        return self._blocks
