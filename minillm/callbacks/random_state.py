"""Random numbers that are the same in a resumed run."""

import hashlib
from typing import Any

import lightning as L
import torch


class RandomState(L.Callback):
    """Seeds the network's random numbers before each batch from (seed, batch number, process).

    So dropout after a resume is the same as without the interruption, the checkpoint needs no generator state, and
    other draws of random numbers do not matter.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of CPU and GPU."""
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        digest = hashlib.sha256(f"{self.seed} {number} {trainer.global_rank}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big", signed=True)
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # only the CPU's, in a tenth of the time
        else:
            torch.manual_seed(seed)
