"""The end of a training whose figures are no numbers any more."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from minillm.errors import DivergedError
from minillm.numerics import all_finite
from minillm.training.module import TrainingModule


class Divergence(L.Callback):
    """Ends a training whose loss, figures or weights are infinite or not a number; no checkpoint ever holds such.

    It has to be the first callback: those after it could not work with such a network. It looks at

    - the loss: on the processor at every step (a microsecond), elsewhere and with several processes at the steps that
      are logged, where other figures wait for the device anyway;
    - the figures of each validation and test, before anybody compares them;
    - weights and the optimizer's state before each checkpoint: once over their memory, a small part of the writing.

    Raises:
        DivergedError: names the step, the learning rate and what would do.
    """

    def __init__(self) -> None:
        self._learning_rate = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Keep the highest learning rate: after the last step of a schedule it is 0."""
        self._learning_rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Look at the batch's loss."""
        alone = trainer.world_size == 1
        is_logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if not is_logged and not (alone and pl_module.device.type == "cpu"):
            return
        loss = float(outputs["loss"])
        # All processes end together: one that went on would wait for the others.
        if trainer.strategy.reduce_boolean_decision(not math.isfinite(loss), all=False):
            self._end(trainer, f"the loss is {loss}")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the validation's figures."""
        assert isinstance(pl_module, TrainingModule)
        self._check_figures(trainer, "val", pl_module.val_metrics.compute())

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the test's figures."""
        assert isinstance(pl_module, TrainingModule)
        self._check_figures(trainer, "test", pl_module.test_metrics.compute())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at what is to be written."""
        states = [state for optimizer in checkpoint["optimizer_states"] for state in optimizer["state"].values()]
        values = [checkpoint["state_dict"].values(), *(state.values() for state in states)]
        finite = all_finite(value for group in values for value in group if isinstance(value, Tensor))
        # Of a sharded network the first process alone has them.
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
            + (f"what was good is kept: {kept}" if kept else "there was no checkpoint yet")
        )
