"""Exact operations that are faster on a CPU than PyTorch's own. `is_used` is the one switch to all of them.

The layers that use them (`dropout.py`, `linear.py`, `normalization.py`, `attention.py`) read like their papers, and run
PyTorch's operations on other devices, in compiled code and in exports.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

RANDOM_VALUES = 2**16  # of a random number in dropout: each 64-bit number of the generator gives four of 16 bits
# PyTorch's float32 matrix products use MKL, which reaches half the speed of oneDNN on AMD processors with AVX-512.
# PyTorch includes oneDNN, too, but only this internal operation, made for torch.compile, uses it for float32.
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def is_used(x: Tensor) -> bool:
    """Return whether the operations of this module are used for a tensor."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()  # which is also true in exports


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b: (..., inputs) to (..., outputs). By oneDNN in float32 without gradients."""
    floats = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _ONEDNN_LINEAR is None or torch.is_grad_enabled() or not floats:
        return F.linear(x, weight, bias)
    product: Tensor = _ONEDNN_LINEAR(x, weight, bias, "none", [], "")
    return product


def dropout(x: Tensor, p: float) -> Tensor:
    """Return dropout(x) with cheap random numbers.

    PyTorch's dropout draws from a Bernoulli distribution for each element, and takes longer than the matrix product
    before it. Here four elements share a 64-bit integer, so p is rounded to a multiple of 1/65536; the scale uses the
    rounded p, so the expectation is exact.
    """
    dropped: Tensor = _Dropout.apply(x, p)
    return dropped


def normalize(x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) over the last dimension in a dtype, with few passes over memory."""
    normed: Tensor = _Normalize.apply(x, eps, dtype)
    return normed


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: torch.nn.Module) -> Tensor:
    """Return `minillm.models.attention.attention` by batched matrix products (bmm); arguments and shapes as there."""
    batch, heads, length, dim = query.shape
    groups = key.size(1)
    if mask is None:
        mask = torch.ones(length, key.size(2), dtype=torch.bool).tril(key.size(2) - length)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    bias = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -math.inf)
    # Query heads that share a key head become rows of one matrix.
    rows = query.reshape(batch * groups, -1, dim)
    bias = bias.view(-1, 1, length, key.size(2)).repeat(1, 1, heads // groups, 1)
    bias = bias.expand(batch, groups, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, rows, key.flatten(0, 1).transpose(1, 2), alpha=dim**-0.5)
    return torch.bmm(dropout(scores.softmax(dim=-1)), value.flatten(0, 1)).view(query.shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped = min(round(p * RANDOM_VALUES), RANDOM_VALUES - 1)
        bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
        # The comparison in place turns each number into 1 (keep the element) or 0 (drop it).
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape).ge_(dropped - RANDOM_VALUES // 2)
        ctx.save_for_backward(kept)
        ctx.scale = RANDOM_VALUES / (RANDOM_VALUES - dropped)
        return x.mul(kept.to(x.dtype)).mul_(ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept.to(gradient.dtype)).mul_(ctx.scale), None


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_().div_(x.size(-1))
        scale = square.add_(eps).rsqrt_()
        normed = torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype))
        ctx.save_for_backward(normed, scale)
        ctx.dtype = x.dtype
        return normed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        normed, scale = ctx.saved_tensors
        mean = (gradient * normed).mean(dim=-1, keepdim=True, dtype=scale.dtype)
        result = torch.addcmul(gradient, normed, mean.to(normed.dtype), value=-1)
        return torch.mul(result, scale, out=torch.empty_like(result, dtype=ctx.dtype)), None, None
