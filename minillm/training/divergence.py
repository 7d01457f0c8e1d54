"""Stops a training that diverges."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from minillm.errors import DivergedError
from minillm.numerics import all_finite
from minillm.training.module import TrainingModule


class Divergence(L.Callback):
    """Stops a training whose loss, metrics or weights are not finite; no checkpoint with such weights is written.

    It must be the first callback, since the others cannot work with such a network. It checks

    - the loss: on a CPU at every step (a microsecond); on other devices and with several processes at the logged steps,
      at which the program waits for the device anyway;
    - the metrics of each validation and test, before other callbacks compare them;
    - weights and optimizer state before each checkpoint, which takes a small part of the time to write it.

    Raises:
        DivergedError: names the step, the learning rate and what to change.
    """

    def __init__(self) -> None:
        self._learning_rate = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Note the step's highest learning rate, for the message: after the last step it is 0."""
        self._learning_rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Check the batch's loss."""
        is_logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if not is_logged and not (trainer.world_size == 1 and pl_module.device.type == "cpu"):
            return
        loss = float(outputs["loss"])
        # All processes stop together: one that continued would wait for the others.
        if trainer.strategy.reduce_boolean_decision(not math.isfinite(loss), all=False):
            self._end(trainer, f"the loss is {loss}")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the validation metrics."""
        assert isinstance(pl_module, TrainingModule)
        self._check_figures(trainer, "val", pl_module.val_metrics.compute())

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the test metrics."""
        assert isinstance(pl_module, TrainingModule)
        self._check_figures(trainer, "test", pl_module.test_metrics.compute())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check weights and optimizer state."""
        states = [state for optimizer in checkpoint["optimizer_states"] for state in optimizer["state"].values()]
        values = [checkpoint["state_dict"].values(), *(state.values() for state in states)]
        finite = all_finite(value for group in values for value in group if isinstance(value, Tensor))
        # Only the first process has those of a sharded network.
        if trainer.strategy.reduce_boolean_decision(not finite, all=False):
            self._end(trainer, "weights or the optimizer's averages are not finite")

    def _check_figures(self, trainer: L.Trainer, split: str, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            if not math.isfinite(value.float()):  # as it is logged
                self._end(trainer, f"{split}/{name} is {value}")

    def _end(self, trainer: L.Trainer, what: str) -> None:
        folder = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or "")
        kept = ", ".join(str(path) for path in sorted(folder.glob("*.ckpt"))) if folder.name else ""
        raise DivergedError(
            f"the training has diverged: at step {trainer.global_step}, with learning rate {self._learning_rate:.3g}, "
            f"{what}; a lower optimizer.lr, a longer scheduler.warmup or a smaller "
            f"callbacks.gradient_clipping.max_norm would do; "
            + (f"earlier checkpoints are kept: {kept}" if kept else "there was no checkpoint yet")
        )
