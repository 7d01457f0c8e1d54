"""Which tokens a model prefers over the true ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

from minillm.tokenization import PAD


class PredictionBias(Metric):
    """Mean, mean absolute value and variance of (predicted id - target id); predicted is the most probable token.

    Word ids run by falling frequency: a negative bias says that the model predicts more frequent words than the
    text has, as every undertrained model does. Sums are whole numbers: exact over any batches and processes.
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
            targets: (B, T) true tokens, [PAD] where there is none.
        """
        difference = (predictions - targets)[targets != PAD]
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
