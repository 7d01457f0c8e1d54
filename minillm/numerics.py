"""What hardware and arithmetic allow: float64, finite numbers."""

from collections.abc import Iterable

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})  # types of devices: Apple's GPUs


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no element is infinite or not a number; it waits for a device once.

    >>> all_finite([torch.ones(2), torch.tensor([1, 2])]), all_finite([torch.tensor([1.0, float("inf")])])
    (True, False)

    Args:
        tensors: of any type, on any devices.
    """
    tensors = [_held(tensor) for tensor in tensors if tensor.is_floating_point()]
    # A sum is finite only where each element is, and forty times as fast as a look at each; it may overflow, though.
    sums = [tensor.sum() for tensor in tensors]
    if not sums or bool(torch.stack([value.to(sums[0].device, torch.float32) for value in sums]).isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _held(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor holds: one from a file may show a few of them as very many."""
    storage = tensor.untyped_storage()
    if tensor.numel() * tensor.element_size() <= storage.nbytes():
        return tensor
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)


def has_float64(device: torch.device | str) -> bool:
    """Return whether tensors on a device can be float64."""
    return torch.device(device).type not in WITHOUT_FLOAT64
