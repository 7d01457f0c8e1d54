"""The learning rate as it was."""

from typing import Any

import lightning as L


class LearningRate(L.Callback):
    """Logs ``lr``, of the optimizer's first group of parameters, and ``lr/NAME`` of each whose own differs."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log what the next step is taken with."""
        groups = trainer.optimizers[0].param_groups
        rates = {"lr": groups[0]["lr"]}
        for number, group in enumerate(groups[1:], start=2):
            if group["initial_lr"] != groups[0]["initial_lr"]:
                rates[f"lr/{group.get('name', number)}"] = group["lr"]
        pl_module.log_dict(rates)
