"""RMSNorm, with few passes over memory on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019).

    Args:
        dim: size of the last dimension.
        eps: keeps a vector of zeros from becoming infinite.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to the same shape, in autocast's dtype if that is on."""
        return self.normalize(x) * self.weight

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize without the weight: callers multiply the weight into the matrix that follows, which is smaller."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if device != "cpu" or torch.compiler.is_compiling():  # PyTorch's kernel is fast there
            return F.rms_norm(x, x.shape[-1:], eps=self.eps).to(dtype)
        return _Normalize.apply(x, self.eps, dtype)


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
