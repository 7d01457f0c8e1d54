"""Where the tokens of a row stand, and what each may look at."""

import torch
from torch import Tensor

from minillm.models.minigpt import KeyValueCache, causal_mask_within_documents, positions_within_documents


def place(ids: Tensor, documents: Tensor | None, cache: KeyValueCache | None) -> tuple[Tensor, Tensor | None]:
    """Place the newest tokens of each row; a cache learns which documents they belong to.

    Args:
        ids: (B, T) token ids.
        documents: (B, T), equal numbers side by side belong to one document; None: each row is one document.
        cache: the tokens before these, S - T of them.

    Returns:
        Their places within their documents, (T,) or (B, T) int64; and the mask (B, 1, T, S), true where one may look at
        a token, None where that is every token up to oneself and there is nothing before them.

    Raises:
        ValueError: the cache has no room for them.
    """
    if cache is None and documents is None:
        return torch.arange(ids.size(1), device=ids.device), None
    start = 0
    if cache is not None:
        start, end = cache.length, cache.length + ids.size(1)
        if end > cache.capacity:
            raise ValueError(f"the cache has room for {cache.capacity} tokens, not for {end}")
        cache.documents[:, start:end] = 0 if documents is None else documents
        documents = cache.documents[:, :end]
    assert documents is not None
    return positions_within_documents(documents)[:, start:], causal_mask_within_documents(documents)[:, None, start:]
