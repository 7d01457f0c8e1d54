"""The progress bar on a terminal, and a line an epoch in the log."""

import logging
import multiprocessing
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger(__name__)


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar with loss and tokens/s; logs the validation figures of each epoch in one line."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Draw no bar in one of several processes that share a terminal: they would draw over each other."""
        if multiprocessing.current_process().name != "MainProcess":
            self.disable()
        super().setup(trainer, pl_module, stage)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown = {"train/loss": "loss", "val/loss": "val", "train/tokens_per_second": "tokens/s"}
        return {short: f"{float(metrics[name]):.4g}" for name, short in shown.items() if name in metrics}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the figures."""
        super().on_validation_end(trainer, pl_module)
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        figures = ", ".join(
            f"{name} {float(metrics[name]):{form}}"
            for name, form in (
                ("train/loss", ".3f"),
                ("val/loss", ".3f"),
                ("val/perplexity", ".1f"),
                ("val/bits_per_byte", ".3f"),
                ("train/tokens_per_second", ".0f"),
            )
            if name in metrics
        )
        log.info("epoch %d, step %d: %s", trainer.current_epoch + 1, trainer.global_step, figures)
