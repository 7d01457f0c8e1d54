"""Dropout whose random numbers cost little on the processor."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError

# A random number has 16 bits, four to each that the generator makes.
LEVELS = 2**16


class Dropout(nn.Module):
    """Zeroes each element with a probability in training and scales up the rest (Srivastava et al. 2014).

    PyTorch's own draws each element from a Bernoulli distribution, which on the processor takes longer than the matrix
    product before it. Here four elements share a 64-bit integer, so that the probability is rounded to a multiple of
    1/65536; what is kept is scaled by the rounded probability, and the expectation is exact. On other devices and
    in compiled code, where it is fast, this is PyTorch's dropout.

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
        # Compared in place, the numbers become 1 where an element is kept and 0 where it is dropped.
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
    """Probabilities of dropping an element, by place.

    Args:
        embedding: of the embedded input.
        attention: of the attention weights.
        residual: of what a sublayer adds to the residual stream.
        feedforward: of the feed-forward's hidden channels.
    """

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    feedforward: float = 0.0


def dropout_rates(dropout: float | Mapping[str, float]) -> DropoutRates:
    """Return the rates that a setting means: one for embedding, attention and residual, or one for each named place.

    >>> dropout_rates(0.1)
    DropoutRates(embedding=0.1, attention=0.1, residual=0.1, feedforward=0.0)
    >>> dropout_rates({"residual": 0.2})
    DropoutRates(embedding=0.0, attention=0.0, residual=0.2, feedforward=0.0)

    Raises:
        SettingError: no such place, or no probability.
    """
    rates = dropout if isinstance(dropout, Mapping) else {"dropout": dropout}
    for place, rate in rates.items():
        name = place if place == "dropout" else f"dropout.{place}"
        if isinstance(dropout, Mapping) and place not in DropoutRates._fields:
            raise SettingError(name, rate, f"is no place; {', '.join(DropoutRates._fields)} are")
        if not 0 <= rate < 1:
            raise SettingError(name, rate, "must be at least 0 and under 1, such as 0.1")
    return DropoutRates(**rates) if isinstance(dropout, Mapping) else DropoutRates(dropout, dropout, dropout)
