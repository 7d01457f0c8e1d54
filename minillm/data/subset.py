"""A part of a split of bounded size: as the corpus grows, few of its articles change."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.split import uniform
from minillm.data.batching import EncodedDocuments

D = TypeVar("D", bound=EncodedDocuments)


class Subset:
    """Some of a split's encoded documents.

    Args:
        documents: those of the split.
        indices: (n,), the documents to take.
    """

    def __init__(self, documents: EncodedDocuments, indices: NDArray[np.int64]) -> None:
        self.documents, self.indices = documents, indices
        self.page_ids: np.ndarray = documents.page_ids[indices]
        self.lengths: np.ndarray = documents.lengths[indices]
        self.bytes: np.ndarray = documents.bytes[indices]
        self.unknown_bytes: np.ndarray = documents.unknown_bytes[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the token ids of a document, [BOS] first and [EOS] last."""
        return self.documents[int(self.indices[index])]


def smallest_hashes(documents: EncodedDocuments, max_tokens: int | None) -> NDArray[np.int64] | None:
    """Return the documents with the smallest hashes of their page ids, as many as fit into ``max_tokens``.

    The choice depends neither on the order nor on a seed: a chosen article is replaced only by new articles with
    smaller hashes. At least one document is chosen.

    Args:
        documents: those of a split.
        max_tokens: tokens to predict, with [EOS]; None: no limit.

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


def bounded(documents: D, max_tokens: int | None) -> D | Subset:
    """Return the documents chosen by `smallest_hashes`."""
    chosen = smallest_hashes(documents, max_tokens)
    return documents if chosen is None else Subset(documents, chosen)
