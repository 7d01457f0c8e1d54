"""RMSNorm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.models import processor


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
        if processor.is_used(x):
            return processor.normalize(x, self.eps, dtype)
        return F.rms_norm(x, x.shape[-1:], eps=self.eps).to(dtype)
