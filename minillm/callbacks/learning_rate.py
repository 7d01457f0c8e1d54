"""Logs the learning rate."""

from typing import Any

import lightning as L


class LearningRate(L.Callback):
    """Logs ``lr``, of the optimizer's first parameter group, and ``lr/NAME`` of each group with a different one."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the learning rates of the next step."""
        groups = trainer.optimizers[0].param_groups
        rates = {"lr": groups[0]["lr"]}
        for number, group in enumerate(groups[1:], start=2):
            if group["initial_lr"] != groups[0]["initial_lr"]:
                rates[f"lr/{group.get('name', number)}"] = group["lr"]
        pl_module.log_dict(rates)
