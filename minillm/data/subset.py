"""A bounded part of a split: it stays the same articles as the corpus grows, but for a few at its edge."""

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.split import uniform
from minillm.data.batching import Documents


class IdentifiedDocuments(Documents, Protocol):
    """Encoded documents that know which articles they are."""

    page_ids: np.ndarray
    """(N,) int64: the identity of each article."""


Identified = TypeVar("Identified", bound=IdentifiedDocuments)


class Subset:
    """Some documents of a split, as `IdentifiedDocuments`.

    Args:
        documents: the split.
        indices: (n,) which of them.
    """

    def __init__(self, documents: IdentifiedDocuments, indices: NDArray[np.int64]) -> None:
        self.documents, self.indices = documents, indices
        self.page_ids: np.ndarray = documents.page_ids[indices]
        self.lengths: np.ndarray = documents.lengths[indices]
        self.bytes: np.ndarray = documents.bytes[indices]
        self.unknown_bytes: np.ndarray = documents.unknown_bytes[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the ids of one, [BOS] first and [EOS] last."""
        return self.documents[int(self.indices[index])]


def smallest_hashes(documents: IdentifiedDocuments, max_tokens: int | None) -> NDArray[np.int64] | None:
    """Return which documents have the smallest hashes of their identity, as many as come to ``max_tokens`` at most.

    The choice depends on no order and no seed: an article that is in it leaves only when new articles with smaller
    hashes take its room. At least one document is chosen.

    Args:
        documents: a split.
        max_tokens: tokens to predict, [EOS] among them; None: no limit.

    Returns:
        (n,) indices in the split's order; None: all documents are within the limit.
    """
    tokens = np.asarray(documents.lengths, dtype=np.int64) - 1
    if max_tokens is None or tokens.sum() <= max_tokens:
        return None
    hashes = [uniform("evaluation", int(page_id)) for page_id in documents.page_ids]
    order = np.argsort(hashes, kind="stable")
    chosen = max(1, int(np.searchsorted(np.cumsum(tokens[order]), max_tokens, side="right")))
    return np.sort(order[:chosen])


def bounded(documents: Identified, max_tokens: int | None) -> Identified | Subset:
    """Return the documents that `smallest_hashes` chooses."""
    chosen = smallest_hashes(documents, max_tokens)
    return documents if chosen is None else Subset(documents, chosen)
