"""Prediction bias at each validation."""

from typing import Any

import lightning as L
from torch import Tensor

from minillm.errors import SettingError
from minillm.evaluation.bias import PredictionBias


class BiasEvaluation(L.Callback):
    """Logs ``prediction_bias``, ``absolute_bias`` and ``bias_variance`` of validation and test.

    `minillm.evaluation.bias.PredictionBias` defines them.

    Args:
        max_batches: batches of the split to use; None: all.

    Raises:
        SettingError: max_batches under 1.
    """

    def __init__(self, max_batches: int | None = None) -> None:
        if max_batches is not None and max_batches < 1:
            raise SettingError("max_batches", max_batches, "must be at least 1, or null for the whole split")
        self.max_batches = max_batches
        self.metric = PredictionBias()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Add a validation batch."""
        self._update(outputs, batch, batch_idx)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Add a test batch."""
        self._update(outputs, batch, batch_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation metrics."""
        self._log("val", pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the test metrics."""
        self._log("test", pl_module)

    def _update(self, predictions: Tensor, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.max_batches is None or batch_idx < self.max_batches:
            self.metric.to(predictions.device).update(predictions, batch["targets"])

    def _log(self, split: str, pl_module: L.LightningModule) -> None:
        for name, value in self.metric.compute().items():
            pl_module.log(f"{split}/{name}", value.float())
        self.metric.reset()
