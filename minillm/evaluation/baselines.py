"""Unigram and bigram baselines, which a network should beat."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from minillm.errors import OutsideError
from minillm.tokenization.tokenizer import BOS, EOS

Ids = NDArray[np.int64]

CHUNK = 1 << 20  # tokens counted or scored together, which bounds the memory


class NgramBaselines:
    """A unigram model and an interpolated bigram model, without hyperparameters.

    - unigram: P(w) = (c(w) + 1) / (N + V), add-one smoothing.
    - bigram: P(w | v) = (c(v, w) + T(v) P(w)) / (c(v) + T(v)), with T(v) the number of distinct tokens seen after v:
      Witten-Bell interpolation (Witten and Bell, "The Zero-Frequency Problem", 1991). After an unseen v it is P(w).

    They predict the same targets as a network: a document is [BOS] t1 ... tn [EOS], and the targets are t1 to [EOS].

    Args:
        vocab_size: V, entries of the vocabulary, with the special tokens.
        ends: whether a document ends with [EOS].
    """

    def __init__(self, vocab_size: int, ends: bool = True) -> None:
        self.vocab_size, self.ends = vocab_size, ends

    def fit(self, documents: Iterable[Sequence[int] | Ids]) -> None:
        """Count the tokens of the training split.

        Args:
            documents: the ids of each document, without [BOS] and [EOS].

        Raises:
            OutsideError: there is no document.
            ValueError: an id is outside the vocabulary.
        """
        size = self.vocab_size
        unigrams: Ids = np.zeros(size, dtype=np.int64)
        counted = []
        for context, target in self._pairs(documents):
            unigrams += np.bincount(target, minlength=size)
            counted.append(np.unique(context * size + target, return_counts=True))
        if not counted:
            raise OutsideError("no document to estimate the n-gram baselines on: the training split is empty")
        keys, counts = (np.concatenate(arrays) for arrays in zip(*counted, strict=True))
        self._keys, where = np.unique(keys, return_inverse=True)  # (pairs,): v V + w, sorted
        self._counts = np.bincount(where, weights=counts)  # (pairs,): c(v, w)
        self._unigram = (unigrams + 1) / (unigrams.sum() + size)  # (V,): P(w)
        self._total = np.bincount(self._keys // size, weights=self._counts, minlength=size)  # (V,): c(v)
        self._distinct = np.bincount(self._keys // size, minlength=size)  # (V,): T(v)

    def unigram(self, target: Ids) -> NDArray[np.float64]:
        """Return P(target), elementwise."""
        return self._unigram[target]

    def bigram(self, context: Ids, target: Ids) -> NDArray[np.float64]:
        """Return P(target | context), elementwise."""
        keys = context * self.vocab_size + target
        where = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        count = np.where(self._keys[where] == keys, self._counts[where], 0)
        total, distinct, backoff = self._total[context], self._distinct[context], self._unigram[target]
        # After an unseen context both counts are 0, and only the unigram probability is left.
        return np.where(total > 0, (count + distinct * backoff) / np.maximum(total + distinct, 1), backoff)

    def score(self, documents: Iterable[Sequence[int] | Ids]) -> dict[str, dict[str, float]]:
        """Return the loss and perplexity of both models on a split.

        Args:
            documents: the ids of each document, without [BOS] and [EOS].

        Returns:
            For "unigram" and "bigram": "loss" in nats per token, "perplexity" = exp(loss), "tokens": number of targets.

        Raises:
            OutsideError: there is no document.
            ValueError: an id is outside the vocabulary.
        """
        nats = {"unigram": 0.0, "bigram": 0.0}
        tokens = 0
        for context, target in self._pairs(documents):
            nats["unigram"] -= float(np.log(self.unigram(target)).sum())
            nats["bigram"] -= float(np.log(self.bigram(context, target)).sum())
            tokens += len(target)
        if not tokens:
            raise OutsideError("no document to score the n-gram baselines on: the split is empty")
        return {
            name: {"loss": total / tokens, "perplexity": float(np.exp(total / tokens)), "tokens": tokens}
            for name, total in nats.items()
        }

    def _pairs(self, documents: Iterable[Sequence[int] | Ids]) -> Iterator[tuple[Ids, Ids]]:
        """Yield contexts and targets, (n,) each, of whole documents."""
        pieces: list[Sequence[int] | Ids] = []
        length = 0
        for document in documents:
            pieces += [BOS], document, [EOS] if self.ends else []
            length += len(document) + 2
            if length >= CHUNK:
                yield self._shifted(pieces)
                pieces, length = [], 0
        if pieces:
            yield self._shifted(pieces)

    def _shifted(self, pieces: list[Sequence[int] | Ids]) -> tuple[Ids, Ids]:
        stream = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
        if stream.min() < 0 or stream.max() >= self.vocab_size:
            raise ValueError(f"token ids {stream.min()} to {stream.max()} in a vocabulary of {self.vocab_size}")
        context, target = stream[:-1], stream[1:]
        inside = target != BOS  # not across documents
        return context[inside], target[inside]
