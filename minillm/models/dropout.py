"""Dropout with cheap random numbers on a CPU."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError

LEVELS = 2**16  # values of a random number: each 64-bit number of the generator gives four of 16 bits


class Dropout(nn.Module):
    """In training, zeroes each element with probability p and scales up the others (Srivastava et al. 2014).

    On a CPU, PyTorch's dropout takes longer than the matrix product before it, since it draws from a Bernoulli
    distribution for each element. Here four elements share a 64-bit integer, so p is rounded to a multiple of 1/65536;
    the scale uses the rounded p, so the expectation is exact. Other devices and compiled code use PyTorch's dropout,
    which is fast there.

    Args:
        p: probability of dropping an element, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map a float tensor to one of the same shape and type."""
        if not self.training or self.p == 0:
            return x
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _DropoutOnProcessor.apply(x, self.p)
        return F.dropout(x, self.p)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"p={self.p}"


class _DropoutOnProcessor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:  # type: ignore[no-untyped-def]
        dropped = min(round(p * LEVELS), LEVELS - 1)
        bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
        # The comparison in place turns each number into 1 (keep the element) or 0 (drop it).
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape).ge_(dropped - LEVELS // 2)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return x.mul(kept.to(x.dtype)).mul_(ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept.to(gradient.dtype)).mul_(ctx.scale), None


class DropoutRates(NamedTuple):
    """Dropout probabilities, by where dropout is applied.

    Args:
        embedding: to the embedded input.
        attention: to the attention weights.
        residual: to a sublayer's output, before it is added to the residual stream.
        feedforward: to the hidden channels of the feed-forward layer.
    """

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    feedforward: float = 0.0


def dropout_rates(dropout: float | Mapping[str, float]) -> DropoutRates:
    """Return the rates of a setting: one rate for embedding, attention and residual, or a rate for each name.

    >>> dropout_rates(0.1)
    DropoutRates(embedding=0.1, attention=0.1, residual=0.1, feedforward=0.0)
    >>> dropout_rates({"residual": 0.2})
    DropoutRates(embedding=0.0, attention=0.0, residual=0.2, feedforward=0.0)

    Raises:
        SettingError: an unknown name, or a rate outside [0, 1).
    """
    rates = dropout if isinstance(dropout, Mapping) else {"dropout": dropout}
    for place, rate in rates.items():
        name = place if place == "dropout" else f"dropout.{place}"
        if isinstance(dropout, Mapping) and place not in DropoutRates._fields:
            raise SettingError(name, rate, f"is unknown; choose from {', '.join(DropoutRates._fields)}")
        if not 0 <= rate < 1:
            raise SettingError(name, rate, "must be at least 0 and under 1, such as 0.1")
    return DropoutRates(**rates) if isinstance(dropout, Mapping) else DropoutRates(dropout, dropout, dropout)
