"""Gradient clipping that logs the norm."""

import lightning as L
import torch
from torch.optim import Optimizer

from minillm.errors import SettingError
from minillm.training.sharding import whole


class GradientClipping(L.Callback):
    """Clips the gradient's norm (Pascanu et al. 2013); logs ``train/grad_norm``, the norm before clipping.

    Args:
        max_norm: maximum L2 norm over all parameters; infinity: only log.

    Raises:
        SettingError: max_norm is not over 0.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise SettingError("max_norm", max_norm, "must be over 0, such as 1.0")
        self.max_norm = max_norm

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Clip all gradients together."""
        norm = torch.nn.utils.clip_grad_norm_(pl_module.parameters(), self.max_norm)
        pl_module.log("train/grad_norm", whole(norm))
