"""Training speed."""

import time
from typing import Any

import lightning as L
import torch

from minillm.arithmetic import counted_flops_per_token, product_peak, product_speed
from minillm.tokenization import PAD


class Throughput(L.Callback):
    """Logs ``train/tokens_per_second``, targets over all processes without padding, and ``train/mfu``.

    Both are measured from one logged optimizer step to the next, with waiting for data and without validation.

    ``train/mfu`` is the model FLOPs utilization: the operations that the model needs for these targets, see
    `minillm.arithmetic`, divided by those of large matrix products on this machine in the same time and precision. The
    machine's speed is the best that is measured at the start of training and of each epoch. Attention counts rows of
    ``max_length``; padding does not count. With several processes it is that of the first. Lightning's
    ThroughputMonitor only has datasheet peaks of some GPUs, and none of CPUs.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the machine, and start the clock, since a run resumed within an epoch does not start that epoch."""
        self._logged_step = trainer.global_step
        half = "bf16" in str(trainer.precision) or "16-mixed" in str(trainer.precision)
        self._dtype = torch.bfloat16 if half else torch.float32
        self._peak = product_peak(pl_module.device, self._dtype)
        network = pl_module.network
        assert isinstance(network, torch.nn.Module)
        length = getattr(network, "max_length", None)  # without it, the operations are unknown
        self._flops = None if length is None else counted_flops_per_token(network, int(length))
        self._restart(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the machine again, which other programs may have slowed down before, and start the clock."""
        self._peak = max(self._peak, product_speed(pl_module.device, self._dtype))
        self._restart(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock: validation does not count."""
        self._restart(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's targets; at a logged step, log the speed since the last one."""
        self._tokens += (batch["targets"] != PAD).sum()
        step = trainer.global_step
        # A step of several accumulated batches is logged at its last batch.
        if step % trainer.log_every_n_steps == 0 and step != self._logged_step:  # type: ignore[attr-defined]
            self._logged_step = step
            tokens = int(self._tokens)  # synchronizes the device, so that the time is right
            seconds = time.perf_counter() - self._start
            pl_module.log("train/tokens_per_second", tokens * trainer.world_size / seconds, prog_bar=True)
            if self._flops is not None:
                pl_module.log("train/mfu", tokens * self._flops / (seconds * self._peak))
            self._restart(pl_module)

    def _restart(self, pl_module: L.LightningModule) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self._start = time.perf_counter()
