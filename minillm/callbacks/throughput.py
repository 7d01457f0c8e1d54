"""How fast training goes."""

import time
from typing import Any

import lightning as L
import torch

from minillm.tokenization import PAD


class Throughput(L.Callback):
    """Logs ``train/tokens_per_second``: targets trained on over all processes, padding not counted.

    Measured from one logged optimizer step to the next, waiting for data included, validation left out.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a run that is resumed within an epoch does not start that epoch."""
        self._logged_step = trainer.global_step
        self._restart(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock again: the validation's time does not count."""
        self._restart(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's targets; at a logged step, log the speed since the last one."""
        self._tokens += (batch["targets"] != PAD).sum()
        step = trainer.global_step
        # A step of several accumulated batches is logged at the one that completes it.
        if step % trainer.log_every_n_steps == 0 and step != self._logged_step:  # type: ignore[attr-defined]
            self._logged_step = step
            tokens = int(self._tokens) * trainer.world_size  # waits for the device, so that the time is true
            seconds = time.perf_counter() - self._start
            pl_module.log("train/tokens_per_second", tokens / seconds, prog_bar=True)
            self._restart(pl_module)

    def _restart(self, pl_module: L.LightningModule) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self._start = time.perf_counter()
