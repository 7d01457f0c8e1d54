"""The training's elapsed time."""

from typing import Any

import lightning as L

from minillm.clock import clock_of


class ElapsedTime(L.Callback):
    """Logs ``train/seconds``, the time since training started, with validations; a resumed run continues to count."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the time of the trainer's clock, which is also that of time limits."""
        if (clock := clock_of(trainer)) is not None:
            pl_module.log("train/seconds", clock.time_elapsed())
