"""The subject of an evaluation: a network with its training, validation and test text."""

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

PER_COUNT = 1000  # documents counted together, since each count has the vocabulary's length


class Whole(Protocol):
    """All texts of a split of which only a part is encoded."""

    @property
    def articles(self) -> int:
        """Number of articles."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the texts."""

    def __iter__(self) -> Iterator[str]: ...


class Split(NamedTuple):
    """The articles of a split, encoded and as texts.

    Args:
        documents: the encoded articles.
        texts: the same articles' texts.
        whole: all texts of the split, to iterate over once, if ``documents`` is only a part; None: it is the whole.
    """

    documents: EncodedDocuments
    texts: Sequence[str]
    whole: "Whole | None" = None

    @property
    def articles(self) -> int:
        """Number of articles in the split."""
        return len(self.documents) if self.whole is None else self.whole.articles

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the split's text."""
        return int(self.documents.bytes.sum()) if self.whole is None else self.whole.bytes

    def bounded(self, max_tokens: int | None) -> "Split":
        """Return the articles with the smallest hashes, up to ``max_tokens``; see `smallest_hashes`."""
        chosen = smallest_hashes(self.documents, max_tokens)
        if chosen is None:
            return self
        return self.only(chosen)._replace(whole=self.whole)

    def only(self, chosen: NDArray[np.int64]) -> "Split":
        """Return some of the articles.

        Args:
            chosen: their indices.
        """
        return Split(Subset(self.documents, chosen), [self.texts[index] for index in chosen.tolist()])


@dataclass
class Subject:
    """A network with its training, validation and test text. Figures are computed once, at their first use.

    Args:
        network: maps ids (B, T) to logits (B, T, V); in eval mode.
        vocab_size: V.
        max_length: tokens of context.
        splits: "test" and, if available, "train" and "val"; whole.
        loaders: the batches of training and validation, by split, to check.
        reported: claimed figures by logged name, such as ``test/accuracy``.
        batch_size: windows per batch.
        max_tokens: maximum tokens to use, by split; splits that are not named are used in full.
        baseline_tokens: maximum training tokens that the baselines count; None: all.
        tokenizer: the network's tokenizer; None: not available.
        own_test: whether the test split is from the same corpus as val.
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
        """The part of each split that figures are over: all articles, or those chosen by `smallest_hashes`."""
        return {name: split.bounded(self.max_tokens.get(name)) for name, split in self.splits.items()}

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """The network's figures on each sample."""
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
        """The sums of predictions on the test sample; see `TokenCounts`."""
        assert self.measured  # computes both in one pass
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
            for documents in batches(_each(split.documents), PER_COUNT):
                targets = np.concatenate([document[1:] for document in documents])
                counted += np.bincount(targets, minlength=self.vocab_size)
        return frequencies

    @cached_property
    def ngrams(self) -> NgramBaselines | None:
        """The n-gram models of the training text; None: it is not available."""
        if "train" not in self.splits:
            return None
        counted = bounded(self.splits["train"].documents, self.baseline_tokens)
        ngrams = NgramBaselines(self.vocab_size, ends=bool(counted[0][-1] == EOS))
        ngrams.fit(self._inside(counted))
        return ngrams

    @cached_property
    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """The n-gram models' figures on the other samples; empty if the training text is not available."""
        if self.ngrams is None:
            return {}
        return {
            name: self.ngrams.score(self._inside(split.documents))
            for name, split in self.samples.items()
            if name != "train"
        }

    @cached_property
    def bigram_nats(self) -> dict[str, NDArray[np.float64]]:
        """The bigram model's nats for each article of the other samples, (N,); empty without training text."""
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
