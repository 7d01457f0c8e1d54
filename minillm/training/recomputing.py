"""Activation checkpointing: less memory for more work."""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from minillm.errors import SettingError


def blocks_of(network: nn.Module, setting: str, value: Any) -> Sequence[nn.Module]:
    """Return the blocks of a network, its ``blocks``.

    Args:
        network: any.
        setting: what asks for them, for the error.
        value: what it is set to.

    Raises:
        SettingError: there are none by that name.
    """
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        advice = f"takes a network block by block, and {type(network).__name__} has no `blocks`, a torch.nn.ModuleList"
        raise SettingError(setting, value, advice)
    return cast(Sequence[nn.Module], blocks)


class Recomputing(nn.Module):
    """What a block is besides: in training it keeps its input alone, and computes again for the gradient.

    The random numbers of dropout are those of the first time.
    """

    def forward(self, *arguments: Any) -> Any:
        """Compute as the block does."""
        if self.training and torch.is_grad_enabled():
            return recomputed(super().forward, *arguments, use_reentrant=False)
        return super().forward(*arguments)


@cache  # blocks of one class stay so: torch.compile makes code for each class
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Recomputing, kind), {"__module__": kind.__module__})


class ActivationCheckpointing(L.Callback):
    """Lets each block compute its activations again for the gradient instead of keeping them (Chen et al. 2016).

    The numbers stay the same; so do the names of the parameters.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Change the blocks, before anybody shares them out."""
        for block in blocks_of(cast(nn.Module, pl_module.network), "activation_checkpointing", True):
            if not isinstance(block, Recomputing):
                block.__class__ = _recomputing(type(block))  # type: ignore[arg-type] # a class is hashable
