"""Linear layers on their fastest exact path."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# PyTorch sends float32 products to MKL, which leaves half of the speed of an AMD processor with AVX-512 unused; oneDNN,
# which comes with PyTorch too, does not. Only the operation behind torch.compile reaches it in float32.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b; in float32 on a processor, where no gradient is wanted, through oneDNN.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (..., outputs).
    """
    if (
        _ONEDNN is None
        or torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()  # exporting, too
    ):
        return F.linear(x, weight, bias)
    product: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return product


class Linear(nn.Linear):
    """PyTorch's linear layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)
