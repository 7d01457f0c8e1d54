"""Early stopping."""

import difflib
from typing import Any

import lightning as L
from lightning.pytorch import callbacks

from minillm.errors import SettingError


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, checked after each validation.

    Args:
        monitor: the metric to watch.
        patience: training ends after this many validations without an improvement.
        min_delta: smallest difference that counts as an improvement.
        mode: ``min``: lower is better; ``max``: higher is better.

    Raises:
        SettingError: a patience under 1, a min_delta under 0, or an unknown mode; at the first validation: there is no
            such metric.
    """

    def __init__(self, monitor: str, patience: int = 3, min_delta: float = 0.0, mode: str = "min") -> None:
        if patience < 1:
            raise SettingError("patience", patience, "must be at least 1 validation, such as 3")
        if not min_delta >= 0:
            raise SettingError("min_delta", min_delta, "must be at least 0")
        if mode not in ("min", "max"):
            raise SettingError("mode", mode, "must be min (lower is better) or max")
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the training if patience is exhausted."""
        if self.monitor not in trainer.callback_metrics and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            close = difflib.get_close_matches(self.monitor, known) or known
            advice = f"is not a validation metric; there are {', '.join(close)}"
            raise SettingError("callbacks.early_stopping.monitor", self.monitor, advice)
        super().on_validation_end(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if this run had already stopped early, and was interrupted before its test."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count; the patience is this run's."""
        super().load_state_dict({**state_dict, "patience": self.patience})
