"""Checks for finite numbers and for float64 on a device."""

from collections.abc import Iterable

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})  # device types: Apple's GPUs


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all elements are finite; synchronizes a device once.

    >>> all_finite([torch.ones(2), torch.tensor([1, 2])]), all_finite([torch.tensor([1.0, float("inf")])])
    (True, False)

    Args:
        tensors: of any type, on any devices.
    """
    tensors = [_stored(tensor) for tensor in tensors if tensor.is_floating_point()]
    # A finite sum implies finite elements, and is forty times as fast as checking each; only if it is not finite, which
    # an overflow may cause, check each.
    sums = [tensor.sum() for tensor in tensors]
    if not sums or bool(torch.stack([value.to(sums[0].device, torch.float32) for value in sums]).isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _stored(tensor: Tensor) -> Tensor:
    """Return a tensor's stored elements: strides of an untrusted tensor can repeat few of them very often."""
    storage = tensor.untyped_storage()
    if tensor.numel() * tensor.element_size() <= storage.nbytes():
        return tensor
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)


def has_float64(device: torch.device | str) -> bool:
    """Return whether tensors on a device can be float64."""
    return torch.device(device).type not in WITHOUT_FLOAT64
