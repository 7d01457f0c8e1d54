"""How long training has taken."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer


class ElapsedTime(Timer):
    """Logs ``train/seconds``, the time since training began, validation included; a resumed run counts on.

    Args:
        duration: stop training after this time, ``DD:HH:MM:SS``; None: no limit.
    """

    def __init__(self, duration: str | None = None) -> None:
        super().__init__(duration=duration, verbose=False)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the time."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        trainer.lightning_module.log("train/seconds", self.time_elapsed())
