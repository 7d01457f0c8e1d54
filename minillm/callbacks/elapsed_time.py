"""How long training has taken."""

from typing import Any

import lightning as L

from minillm.clock import clock_of


class ElapsedTime(L.Callback):
    """Logs ``train/seconds``, the time since training began, validation included; a resumed run counts on."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the time of the trainer's clock, which a time limit goes by too."""
        if (clock := clock_of(trainer)) is not None:
            pl_module.log("train/seconds", clock.time_elapsed())
