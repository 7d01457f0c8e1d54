"""What is evaluated: a network, and the text that it learned from and is judged by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minillm.data import Batch
from minillm.data.batching import EncodedDocuments
from minillm.data.subset import Subset, bounded, smallest_hashes
from minillm.evaluation.baselines import NgramBaselines
from minillm.evaluation.bias import TokenCounts
from minillm.evaluation.language_modelling import Measured, measure
from minillm.parallel import batches
from minillm.tokenization import EOS, Tokenizer

DOCUMENTS_AT_ONCE = 1000  # counted together: a vocabulary of numbers per document would cost more than the counting


class Whole(Protocol):
    """All texts of a split that is too large to be encoded."""

    @property
    def articles(self) -> int:
        """How many there are."""

    @property
    def bytes(self) -> int:
        """Their UTF-8 bytes."""

    def __iter__(self) -> Iterator[str]: ...


class Split(NamedTuple):
    """The articles of one split.

    Args:
        documents: their tokens.
        texts: what the tokens stand for.
        whole: all texts of the split, to be gone through once, where the documents are but a part of them; None: these
            are all.
    """

    documents: EncodedDocuments
    texts: Sequence[str]
    whole: "Whole | None" = None

    @property
    def articles(self) -> int:
        """How many articles the split has."""
        return len(self.documents) if self.whole is None else self.whole.articles

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the split's text."""
        return int(self.documents.bytes.sum()) if self.whole is None else self.whole.bytes

    def bounded(self, max_tokens: int | None) -> "Split":
        """Return the articles with the smallest hashes, up to so many tokens; see `smallest_hashes`."""
        chosen = smallest_hashes(self.documents, max_tokens)
        if chosen is None:
            return self
        return self.only(chosen)._replace(whole=self.whole)

    def only(self, chosen: NDArray[np.int64]) -> "Split":
        """Return some of the articles.

        Args:
            chosen: their places.
        """
        return Split(Subset(self.documents, chosen), [self.texts[index] for index in chosen.tolist()])


@dataclass
class Subject:
    """A network with the text it learned from and is judged by; each figure is computed once, when it is asked for.

    Args:
        network: maps ids (B, T) to logits (B, T, V); in eval mode.
        vocab_size: V.
        max_length: tokens of context that it is judged with.
        splits: "test", and where they are at hand "train" and "val"; whole.
        loaders: batches as the training saw and tested them, by split, to look at.
        reported: figures that were claimed, by logged name such as ``test/accuracy``.
        batch_size: windows at once.
        max_tokens: tokens of each split that figures are over at most, by split; those not named are whole.
        baseline_tokens: training tokens that the baselines count at most; None: all.
        tokenizer: of the network's ids, where it is at hand.
        own_test: whether the test split is one of the same text as val; false: it is other text.
    """

    network: nn.Module
    vocab_size: int
    max_length: int
    splits: Mapping[str, Split]
    loaders: Mapping[str, Iterable[Batch]] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 32
    max_tokens: Mapping[str, int | None] = field(default_factory=dict)
    baseline_tokens: int | None = None
    tokenizer: Tokenizer | None = None
    own_test: bool = True

    @cached_property
    def samples(self) -> dict[str, Split]:
        """The splits that figures are over: whole, or the articles that `smallest_hashes` chooses."""
        return {name: split.bounded(self.max_tokens.get(name)) for name, split in self.splits.items()}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    @property
    def parameters(self) -> int:
        """Numbers that the network learned."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """What the network reaches on each sample."""
        return {
            name: measure(
                self.network,
                split.documents,
                self.max_length,
                self.batch_size,
                self.device,
                self._test_counts if name == "test" else None,
            )
            for name, split in self.samples.items()
        }

    @cached_property
    def counts(self) -> dict[str, NDArray[Any]]:
        """What the network predicts on the test sample, token by token; see `TokenCounts`."""
        assert self.measured  # made in the same pass
        return self._test_counts.compute()

    @cached_property
    def _test_counts(self) -> TokenCounts:
        return TokenCounts(self.vocab_size).to(self.device)

    @cached_property
    def frequencies(self) -> dict[str, NDArray[np.int64]]:
        """How often each token is a target, (V,), by sample."""
        frequencies = {}
        for name, split in self.samples.items():
            counted = frequencies[name] = np.zeros(self.vocab_size, dtype=np.int64)
            for documents in batches(_each(split.documents), DOCUMENTS_AT_ONCE):
                targets = np.concatenate([document[1:] for document in documents])
                counted += np.bincount(targets, minlength=self.vocab_size)
        return frequencies

    @cached_property
    def ngrams(self) -> NgramBaselines | None:
        """The n-gram models of the training text; None where it is not at hand."""
        if "train" not in self.splits:
            return None
        counted = bounded(self.splits["train"].documents, self.baseline_tokens)
        ngrams = NgramBaselines(self.vocab_size, ends=bool(counted[0][-1] == EOS))
        ngrams.fit(self._inside(counted))
        return ngrams

    @cached_property
    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """What counting the training text reaches on the other samples; nothing where it is not at hand."""
        if self.ngrams is None:
            return {}
        return {
            name: self.ngrams.score(self._inside(split.documents))
            for name, split in self.samples.items()
            if name != "train"
        }

    @cached_property
    def bigram_nats(self) -> dict[str, NDArray[np.float64]]:
        """What each article of the other samples takes by the bigram model, in nats, (N,); nothing as above."""
        if self.ngrams is None:
            return {}
        return {
            name: np.array([self._scored(self.ngrams, document) for document in self._inside(split.documents)])
            for name, split in self.samples.items()
            if name != "train"
        }

    @staticmethod
    def _scored(ngrams: NgramBaselines, document: NDArray[Any]) -> float:
        bigram = ngrams.score([document])["bigram"]
        return bigram["loss"] * bigram["tokens"]

    def _inside(self, documents: EncodedDocuments) -> Iterable[NDArray[Any]]:
        """Return the ids of each document without [BOS] and [EOS]."""
        return (document[1 : -1 if document[-1] == EOS else None] for document in _each(documents))

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Return the network's logits (B, T, V) in float32, on its device."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.network(ids.to(self.device))
        return logits.float()


def _each(documents: EncodedDocuments) -> Iterable[NDArray[Any]]:
    return (documents[index] for index in range(len(documents)))
