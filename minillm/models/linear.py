"""Linear layers."""

from torch import Tensor, nn
from torch.nn import functional as F

from minillm.models import processor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (..., outputs).
    """
    return processor.linear(x, weight, bias) if processor.is_used(x) else F.linear(x, weight, bias)


class Linear(nn.Linear):
    """PyTorch's linear layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)
