"""Language modelling metrics over a whole split."""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torchmetrics import Metric

from minillm.data import Batch
from minillm.numerics import has_float64
from minillm.training.predictions import Predictions


class ExactMetric(Metric):
    """A metric whose sums are int64 or float64; it stays on the CPU if the device has no float64.

    So `update` must move its tensors to ``self.device`` before it adds them.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Self:
        """Move to another device; `torch.nn.Module.to` calls it."""
        if has_float64(fn(torch.zeros(1)).device):
            super()._apply(fn, exclude_state)
        return self


class LanguageModelling(ExactMetric):
    """Loss, perplexity, accuracy and bits per byte, exact over any number of batches and processes.

    - loss: mean cross-entropy in nats per token, without label smoothing; perplexity = exp(loss).
    - accuracy: share of targets that are the most probable token.
    - bits_per_byte: (nats / ln 2 + 8 x unknown_bytes) / bytes. The second term is the cost of spelling out the words
      that [UNK] replaces: with it, the figure is the length of a decodable code, and tokenizers are comparable.

    Args:
        alone: do not sum over processes.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    correct: Tensor
    bytes: Tensor
    unknown_bytes: Tensor

    def __init__(self, alone: bool = False) -> None:
        super().__init__(sync_on_compute=not alone)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("tokens", "correct", "bytes", "unknown_bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: of the batch's targets.
            batch: with ``bytes`` and ``unknown_bytes``.
        """
        predictions = predictions.to(self.device)
        counted = predictions.counted
        self.nats += predictions.nats.sum(dtype=torch.float64)
        self.tokens += counted.sum()
        self.correct += (counted & (predictions.guesses == predictions.targets)).sum()
        self.bytes += batch["bytes"].to(self.device)
        self.unknown_bytes += batch["unknown_bytes"].to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the four metrics as float64 scalars; loss is NaN if there was no token."""
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "accuracy": self.correct.double() / self.tokens,
            "bits_per_byte": (self.nats / math.log(2) + 8 * self.unknown_bytes) / self.bytes,
        }
