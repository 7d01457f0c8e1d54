"""Random numbers that a resumed run draws again."""

import hashlib
from typing import Any

import lightning as L
import torch


class RandomState(L.Callback):
    """Seeds the network's random numbers anew before each batch, from (seed, batch number, process) alone.

    Dropout after a resume is so the same as without the interruption, without any generator's state in the checkpoint,
    and whatever else draws random numbers meanwhile changes nothing.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of the processor and of the GPU."""
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        digest = hashlib.sha256(f"{self.seed} {number} {trainer.global_rank}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big", signed=True)
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # that of the processor alone, in a tenth of the time
        else:
            torch.manual_seed(seed)
