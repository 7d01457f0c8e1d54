"""Training that ends when it gets no better."""

import difflib
from typing import Any

import lightning as L
from lightning.pytorch import callbacks

from minillm.errors import SettingError


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, checked right behind each validation.

    Args:
        monitor: the figure to watch.
        patience: validations without a better one after which training ends.
        min_delta: a figure counts as better from this difference on.
        mode: ``min``, a lower figure is better; ``max``, a higher one.

    Raises:
        SettingError: a patience under 1, a min_delta under 0, or another mode; at the first validation, a figure that
            it does not have.
    """

    def __init__(self, monitor: str, patience: int = 3, min_delta: float = 0.0, mode: str = "min") -> None:
        if patience < 1:
            raise SettingError("patience", patience, "must be at least 1 validation, such as 3")
        if not min_delta >= 0:
            raise SettingError("min_delta", min_delta, "must be at least 0")
        if mode not in ("min", "max"):
            raise SettingError("mode", mode, "must be min, a lower figure is better, or max")
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the training if it is time."""
        if self.monitor not in trainer.callback_metrics and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            close = difflib.get_close_matches(self.monitor, known) or known
            advice = f"is no figure of a validation; there are {', '.join(close)}"
            raise SettingError("callbacks.early_stopping.monitor", self.monitor, advice)
        super().on_validation_end(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End a resumed training at once that had been ended, and was interrupted before its test."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the count; the patience is this run's."""
        super().load_state_dict({**state_dict, "patience": self.patience})
