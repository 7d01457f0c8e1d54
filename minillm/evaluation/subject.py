"""What is evaluated: a network, and the text that it learned from and is judged by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minillm.data import Batch
from minillm.data.batching import Documents
from minillm.evaluation.baselines import NgramBaselines
from minillm.evaluation.bias import TokenCounts
from minillm.evaluation.language_modelling import Measured, measure


class Split(NamedTuple):
    """The articles of one split.

    Args:
        documents: their tokens.
        texts: what the tokens stand for.
    """

    documents: Documents
    texts: Sequence[str]


@dataclass
class Subject:
    """A network with the text it learned from and is judged by; each figure is computed once, when it is asked for.

    Args:
        network: maps ids (B, T) to logits (B, T, V); in eval mode.
        vocab_size: V.
        max_length: tokens of context that it is judged with.
        splits: "test", and where they are at hand "train" and "val".
        loaders: batches as the training saw and tested them, by split, to look at.
        reported: figures that were claimed, by logged name such as ``test/accuracy``.
        batch_size: windows at once.
    """

    network: nn.Module
    vocab_size: int
    max_length: int
    splits: Mapping[str, Split]
    loaders: Mapping[str, Iterable[Batch]] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 32

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
        """What the network reaches on each split."""
        return {
            name: measure(
                self.network,
                split.documents,
                self.max_length,
                self.batch_size,
                self.device,
                self._test_counts if name == "test" else None,
            )
            for name, split in self.splits.items()
        }

    @cached_property
    def counts(self) -> dict[str, NDArray[Any]]:
        """What the network predicts on the test split, token by token; see `TokenCounts`."""
        assert self.measured  # made in the same pass
        return self._test_counts.compute()

    @cached_property
    def _test_counts(self) -> TokenCounts:
        return TokenCounts(self.vocab_size).to(self.device)

    @cached_property
    def frequencies(self) -> dict[str, NDArray[np.int64]]:
        """How often each token is a target, (V,), by split."""
        return {
            name: sum(
                (np.bincount(document[1:], minlength=self.vocab_size) for document in _each(split.documents)),
                start=np.zeros(self.vocab_size, dtype=np.int64),
            )
            for name, split in self.splits.items()
        }

    @cached_property
    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """What counting the training text reaches on the other splits; nothing where it is not at hand."""
        if "train" not in self.splits:
            return {}
        baselines = NgramBaselines(self.vocab_size)
        baselines.fit(document[1:-1] for document in _each(self.splits["train"].documents))
        return {
            name: baselines.score(document[1:-1] for document in _each(split.documents))
            for name, split in self.splits.items()
            if name != "train"
        }

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Return the network's logits (B, T, V) in float32, on its device."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.network(ids.to(self.device))
        return logits.float()


def _each(documents: Documents) -> Iterable[NDArray[Any]]:
    return (documents[index] for index in range(len(documents)))
