"""Prediction bias, calibration, and the most over- and underpredicted tokens."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minillm.evaluation.schema import BucketAccuracy, CalibrationBin, TokenShare, UnigramCurves
from minillm.tokenization import PAD, UNK
from minillm.training.metrics import ExactMetric
from minillm.training.predictions import Predictions

BINS = 15
SHOWN = 10  # tokens listed as over- and as underpredicted
CURVE_POINTS = 100


class PredictionBias(ExactMetric):
    """Mean, mean absolute value and variance of (predicted id - target id); predicted is the most probable token.

    Word ids are sorted by descending frequency, so a negative bias means that the model predicts more frequent words
    than the text has, as every undertrained model does. Sums are integers: exact over any batches and processes.
    """

    full_state_update = False
    total: Tensor
    absolute: Tensor
    squares: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "absolute", "squares", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: (B, T) most probable tokens.
            targets: (B, T) true tokens, [PAD] at padding.
        """
        difference = (predictions - targets)[targets != PAD].to(self.device)
        self.total += difference.sum()
        self.absolute += difference.abs().sum()
        self.squares += difference.square().sum()
        self.tokens += difference.numel()

    def compute(self) -> dict[str, Tensor]:
        """Return the three figures as float64 scalars."""
        mean = self.total.double() / self.tokens
        return {
            "prediction_bias": mean,
            "absolute_bias": self.absolute.double() / self.tokens,
            "bias_variance": self.squares.double() / self.tokens - mean.square(),
        }


class TokenCounts(ExactMetric):
    """Sums of predictions by token of the vocabulary and by confidence bin, in constant memory.

    torchmetrics' calibration error stores every confidence; this metric has the same 15 bins as sums.

    Args:
        vocab_size: V.
    """

    full_state_update = False
    predicted: Tensor
    """(V,) float64: sum of the predicted probabilities."""
    targets: Tensor
    """(V,) int64: how often each token is the target."""
    correct: Tensor
    """(V,) int64: how often it is the target and the most probable token."""
    copied: Tensor
    """How often the most probable token is the last input, without [UNK] inputs."""
    copyable: Tensor
    """How often the last input is not [UNK]."""
    bin_tokens: Tensor
    """(15,) int64: targets by the confidence, the highest probability."""
    bin_correct: Tensor
    bin_confidence: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        whole, real = torch.long, torch.float64
        self.add_state("predicted", torch.zeros(vocab_size, dtype=real), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros(vocab_size, dtype=whole), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros(vocab_size, dtype=whole), dist_reduce_fx="sum")
        self.add_state("copied", torch.zeros((), dtype=whole), dist_reduce_fx="sum")
        self.add_state("copyable", torch.zeros((), dtype=whole), dist_reduce_fx="sum")
        self.add_state("bin_tokens", torch.zeros(BINS, dtype=whole), dist_reduce_fx="sum")
        self.add_state("bin_correct", torch.zeros(BINS, dtype=whole), dist_reduce_fx="sum")
        self.add_state("bin_confidence", torch.zeros(BINS, dtype=real), dist_reduce_fx="sum")
        self.differences = PredictionBias()

    def update(self, predictions: Predictions, inputs: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: of the batch's targets, with their distribution.
            inputs: (B, T).
        """
        predictions = predictions.to(self.device)
        assert predictions.distribution is not None
        self.predicted += predictions.distribution
        counted = predictions.counted
        inputs, targets = inputs.to(self.device)[counted], predictions.targets[counted]
        guess, confidence = predictions.guesses[counted], predictions.confidences[counted]
        hit = guess == targets
        self.differences.update(guess, targets)
        vocab_size = len(self.targets)
        self.targets += targets.bincount(minlength=vocab_size)
        self.correct += targets[hit].bincount(minlength=vocab_size)
        known = inputs != UNK
        self.copied += (guess == inputs)[known].sum()
        self.copyable += known.sum()
        # Bin i holds (i / 15, (i + 1) / 15], as in Guo et al. (2017).
        place = ((confidence.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self.bin_tokens += place.bincount(minlength=BINS)
        self.bin_correct += place[hit].bincount(minlength=BINS)
        self.bin_confidence += torch.zeros_like(self.bin_confidence).index_add_(0, place, confidence.double())

    def compute(self) -> dict[str, NDArray[Any]]:
        """Return the sums by name, and the figures of `PredictionBias`, over all processes."""
        sums = {name: getattr(self, name) for name in self._defaults}
        return {name: value.cpu().numpy() for name, value in {**sums, **self.differences.compute()}.items()}


def distances(counts: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Return the distances between predictions and truth, in ids, mean distribution and confidence.

    Args:
        counts: from `TokenCounts`.

    Returns:
        prediction_bias, absolute_bias, bias_variance: see `PredictionBias`.
        kl_divergence: sum of true x ln(true / predicted) over the vocabulary, in nats.
        total_variation: half the sum of the absolute differences.
        calibration_error: mean difference of confidence and accuracy over 15 bins, weighted by their tokens (Guo et
            al., "On Calibration of Modern Neural Networks", 2017).
    """
    true, predicted = _shares(counts)
    occurs = true > 0
    gaps = np.abs(counts["bin_confidence"] - counts["bin_correct"])
    return {
        **{name: float(counts[name]) for name in ("prediction_bias", "absolute_bias", "bias_variance")},
        "kl_divergence": float((true[occurs] * np.log(true[occurs] / predicted[occurs])).sum()),
        "total_variation": float(np.abs(true - predicted).sum() / 2),
        "calibration_error": float(gaps.sum() / counts["bin_tokens"].sum()),
    }


def most_mispredicted(counts: dict[str, NDArray[Any]], spell: Callable[[int], str]) -> dict[str, list[TokenShare]]:
    """Return the tokens whose mean predicted probability is furthest above and below their share of the targets.

    Args:
        counts: from `TokenCounts`.
        spell: returns a token's text.
    """
    true, predicted = _shares(counts)
    order = np.argsort(true - predicted, kind="stable")

    def listed(tokens: NDArray[Any]) -> list[TokenShare]:
        return [{"token": spell(int(i)), "predicted": float(predicted[i]), "true": float(true[i])} for i in tokens]

    over = [i for i in order[:SHOWN] if predicted[i] > true[i]]
    under = [i for i in order[::-1][:SHOWN] if predicted[i] < true[i]]
    return {"overpredicted": listed(np.array(over, dtype=int)), "underpredicted": listed(np.array(under, dtype=int))}


def accuracy_by_frequency(counts: dict[str, NDArray[Any]], frequencies: NDArray[Any]) -> list[BucketAccuracy]:
    """Return the accuracy on targets of ranks 1 to 10, 11 to 100 and so on, and on [UNK].

    Args:
        counts: from `TokenCounts`.
        frequencies: (V,) counts of the tokens in the training text, which determine the ranks.
    """
    order = np.argsort(-frequencies, kind="stable")
    order = order[order != UNK]
    buckets: list[tuple[str, Sequence[int] | NDArray[Any]]] = []
    first = 0
    for power in range(1, math.ceil(math.log10(max(len(order), 2))) + 1):
        last = min(10**power, len(order))
        buckets.append((f"{first + 1}-{last}", order[first:last]))
        first = last
    result: list[BucketAccuracy] = []
    for name, tokens in [*buckets, ("[UNK]", [UNK])]:
        total, hits = int(counts["targets"][tokens].sum()), int(counts["correct"][tokens].sum())
        result.append({"bucket": name, "tokens": total, "accuracy": hits / total if total else None})
    return result


def calibration_bins(counts: dict[str, NDArray[Any]]) -> list[CalibrationBin]:
    """Return mean confidence and accuracy of each bin."""
    sums = zip(counts["bin_tokens"], counts["bin_confidence"], counts["bin_correct"], strict=True)
    return [
        {
            "confidence": float(confidence / tokens) if tokens else None,
            "accuracy": float(correct / tokens) if tokens else None,
            "tokens": int(tokens),
        }
        for tokens, confidence, correct in sums
    ]


def unigram_curves(counts: dict[str, NDArray[Any]]) -> UnigramCurves:
    """Return true and predicted shares of the tokens that occur, by rank, at logarithmically spaced ranks."""
    true, predicted = _shares(counts)
    order = np.argsort(-true, kind="stable")[: np.count_nonzero(true)]
    # Single tokens are noisy, so a point is the mean over the ranks up to the next point.
    edges = np.unique(np.geomspace(1, len(order) + 1, CURVE_POINTS).astype(int))
    ranges = list(pairwise(edges.tolist()))
    groups = [order[first - 1 : last - 1] for first, last in ranges]
    return {
        "rank": [(first + last - 1) // 2 for first, last in ranges],
        "true": [float(true[group].mean()) for group in groups],
        "predicted": [float(predicted[group].mean()) for group in groups],
    }


def _shares(counts: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distribution of the targets and the mean predicted distribution, (V,) each."""
    total = counts["targets"].sum()
    return counts["targets"] / total, counts["predicted"] / total
