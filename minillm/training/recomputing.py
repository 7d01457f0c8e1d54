"""Activation checkpointing: less memory, more computation."""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from minillm.errors import SettingError


def blocks_of(network: nn.Module, setting: str, value: Any) -> Sequence[nn.Module]:
    """Return the attribute ``blocks`` of a network.

    Args:
        network: any network.
        setting: the setting that needs blocks, for the error.
        value: its value.

    Raises:
        SettingError: the network has no ``blocks``.
    """
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        advice = f"needs a network with `blocks`, a torch.nn.ModuleList, and {type(network).__name__} has none"
        raise SettingError(setting, value, advice)
    return cast(Sequence[nn.Module], blocks)


class Recomputing(nn.Module):
    """Mixin for a block: in training it keeps only its input and recomputes its activations for the gradient.

    Dropout draws the same random numbers again.
    """

    def forward(self, *arguments: Any) -> Any:
        """Compute the block's output."""
        if self.training and torch.is_grad_enabled():
            return recomputed(super().forward, *arguments, use_reentrant=False)
        return super().forward(*arguments)


@cache  # one class for all blocks: torch.compile generates code per class
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Recomputing, kind), {"__module__": kind.__module__})


class ActivationCheckpointing(L.Callback):
    """Makes each block recompute its activations for the gradient instead of keeping them (Chen et al. 2016).

    Results and parameter names stay the same.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Change the blocks, before they are sharded."""
        for block in blocks_of(cast(nn.Module, pl_module.network), "activation_checkpointing", True):
            if not isinstance(block, Recomputing):
                block.__class__ = _recomputing(type(block))  # type: ignore[arg-type] # a class is hashable
