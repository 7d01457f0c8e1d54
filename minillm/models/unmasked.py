"""MiniGPT without a causal mask: a deliberate copy of the original work's suspected bug.

Only `experiment=original_leak` uses it, to show which figures such a network gets and that the audit detects it.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from minillm.models.cache import KeyValueCache
from minillm.models.masks import DocumentMask
from minillm.models.minigpt import CausalSelfAttention, MiniGPT


class UnmaskedSelfAttention(CausalSelfAttention):
    """Attention to the whole row, including the token to predict."""

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        """Map (B, T, dim) to (B, T, dim); ``mask`` separates documents, but is no longer causal."""
        if isinstance(mask, DocumentMask):
            mask = mask.dense
        if mask is None:
            mask = torch.ones(1, 1, x.size(1), x.size(1), dtype=torch.bool, device=x.device)
        elif mask.size(-1) == mask.size(-2):  # otherwise it decodes one token, with nothing after it
            mask = mask | mask.mT
        return super().forward(x, mask, cache, layer)


class UnmaskedGPT(MiniGPT):
    """MiniGPT without the causal mask; arguments as for MiniGPT."""

    @functools.wraps(MiniGPT.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in self.blocks:
            # Same weights, same names; only the mask differs.
            block.attention.__class__ = UnmaskedSelfAttention
