"""How fast training goes."""

import time
from typing import Any

import lightning as L
import torch

from minillm.arithmetic import counted_flops_per_token, product_peak, product_speed
from minillm.tokenization import PAD


class Throughput(L.Callback):
    """Logs ``train/tokens_per_second``, targets trained on over all processes, padding not counted; and ``train/mfu``.

    Measured from one logged optimizer step to the next, waiting for data included, validation left out.

    ``train/mfu`` is the share of the machine's speed that the training makes use of (model FLOPs utilization): the
    operations that the model needs for these targets, see `minillm.arithmetic`, over those that the machine does in the
    same time when it multiplies large matrices in the training's precision: the best of what is measured as training
    and its epochs begin.
    Attention is counted over rows of ``max_length``; padding is no use, so it counts for nothing. Of several processes
    it is the first one's, of its own share of the machine. Lightning's ThroughputMonitor knows the peaks of some GPUs,
    from their datasheets, and of no processor.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the machine, and start the clock: a run that is resumed within an epoch does not start that epoch."""
        self._logged_step = trainer.global_step
        half = "bf16" in str(trainer.precision) or "16-mixed" in str(trainer.precision)
        self._dtype = torch.bfloat16 if half else torch.float32
        self._peak = product_peak(pl_module.device, self._dtype)
        network = pl_module.network
        assert isinstance(network, torch.nn.Module)
        length = getattr(network, "max_length", None)  # of a network without it nobody knows what to count
        self._flops = None if length is None else counted_flops_per_token(network, int(length))
        self._restart(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the machine's speed again, which other work may have slowed down until now, and start the clock."""
        self._peak = max(self._peak, product_speed(pl_module.device, self._dtype))
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
            tokens = int(self._tokens)  # waits for the device, so that the time is true
            seconds = time.perf_counter() - self._start
            pl_module.log("train/tokens_per_second", tokens * trainer.world_size / seconds, prog_bar=True)
            if self._flops is not None:
                pl_module.log("train/mfu", tokens * self._flops / (seconds * self._peak))
            self._restart(pl_module)

    def _restart(self, pl_module: L.LightningModule) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self._start = time.perf_counter()
