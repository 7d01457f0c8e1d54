"""Where the tokens of a row stand within their documents, and what each may look at."""

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
