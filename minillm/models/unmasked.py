"""The original's suspected fault, on purpose: MiniGPT whose tokens see what comes after them.

For `experiment=original_leak` alone, which shows what figures such a network gets, and that the audit finds it.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from minillm.models.cache import KeyValueCache
from minillm.models.minigpt import CausalSelfAttention, MiniGPT
from minillm.models.placing import WithinDocuments


class UnmaskedSelfAttention(CausalSelfAttention):
    """Attention to the whole row, the next token, which is to be predicted, included."""

    def forward(
        self, x: Tensor, mask: Tensor | WithinDocuments | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """Map (B, T, dim) to (B, T, dim); of ``mask`` only what parts documents is kept."""
        if isinstance(mask, WithinDocuments):
            mask = mask.dense
        if mask is None:
            mask = torch.ones(1, 1, x.size(1), x.size(1), dtype=torch.bool, device=x.device)
        elif mask.size(-1) == mask.size(-2):  # else it is the newest token's row: nothing comes after it
            mask = mask | mask.mT
        return super().forward(x, mask, cache, layer)


class UnmaskedGPT(MiniGPT):
    """MiniGPT without the causal mask: a language model in name only. Arguments as for MiniGPT."""

    @functools.wraps(MiniGPT.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in self.blocks:
            # The same weights under the same names: only what they may look at differs.
            block.attention.__class__ = UnmaskedSelfAttention
