"""Memory use of training."""

from typing import Any

import lightning as L
import torch

from minillm.memory import MIB, resident_mib


class Memory(L.Callback):
    """Logs ``memory/rss_mib``, the process's resident memory, and on a GPU its peak memory, ``memory/gpu_peak_mib``."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, only at logged steps."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        pl_module.log("memory/rss_mib", resident_mib())
        if pl_module.device.type == "cuda":
            pl_module.log("memory/gpu_peak_mib", torch.cuda.max_memory_allocated(pl_module.device) / MIB)
