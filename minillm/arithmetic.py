"""The operations that a network needs and the machine's speed, for the model FLOPs utilization (MFU).

The standard count per token: a weight of a matrix needs 2 operations in the forward pass and 4 in the backward pass:
6 N in all. Attention multiplies queries with keys and weights with values: 2 x 2 T d operations per layer in the
forward pass, twice as many in the backward pass: 12 L d T in all. This is the count of Chowdhery et al. (2022), "PaLM",
appendix B: causal attention counts in full; recomputation, norms, activations, softmax and dropout do not count. So MFU
compares the model's needs with the machine's speed, independent of the implementation.

This module imports little, since the peers of a benchmark import it, too.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BACKWARD = 2  # operations of the backward pass, relative to the forward pass
MEASURED_SECONDS = 0.2


def matrix_parameters(network: nn.Module) -> int:
    """Return N, the number of weights in matrix products; an embedding counts only if a linear layer shares it."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    multiplied = {
        id(parameter): parameter.numel()
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() >= 2 and (id(parameter) not in tables or isinstance(module, nn.Linear))
    }
    return sum(multiplied.values())


def flops_per_token(network: nn.Module, num_layers: int, embedding_dim: int, max_length: int) -> float:
    """Return 6 N + 12 L d T, the operations of forward and backward pass per token.

    Args:
        network: the network.
        num_layers: L, its attention layers.
        embedding_dim: d, heads times channels per head.
        max_length: T, tokens per row.
    """
    return 6.0 * matrix_parameters(network) + 12.0 * num_layers * embedding_dim * max_length


def counted_flops_per_token(network: nn.Module, length: int) -> float:
    """Return the operations per token of any network that maps ids (B, T) to logits, as counted by PyTorch.

    Args:
        network: the network; its mode and the random numbers do not change.
        length: T, tokens per row.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        ids = torch.zeros((1, length), dtype=torch.long, device=device)
        # PyTorch does not count all fused attention kernels, nor inference kernels, but it counts matrix products.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(ids)
    finally:
        network.train(was_training)
    return (1 + BACKWARD) * counter.get_total_flops() / length


class Stopwatch:
    """Measures seconds; on a GPU by CUDA events.

    Args:
        device: of the work.
    """

    def __init__(self, device: str | torch.device) -> None:
        self._events: tuple[Any, Any] | None = None
        if torch.device(device).type == "cuda":
            self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[assignment]
        self._start = 0.0

    def start(self) -> None:
        """Start, once the device has finished earlier work."""
        if self._events:
            torch.cuda.synchronize()
            self._events[0].record()
        else:
            self._start = time.perf_counter()

    def stop(self) -> float:
        """Return the seconds since the start, once the device has finished all work."""
        if self._events:
            self._events[1].record()
            self._events[1].synchronize()
            return float(self._events[0].elapsed_time(self._events[1])) / 1000
        return time.perf_counter() - self._start


def seconds(work: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Return the seconds that a function takes."""
    watch = Stopwatch(device)
    watch.start()
    work()
    return watch.stop()


class Products:
    """Products of two square matrices.

    Args:
        size: their rows.
        dtype: of their entries.
        device: where they are.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: str | torch.device) -> None:
        self.size, self.device = size, device
        generator = torch.Generator(device).manual_seed(0)  # does not change the training's random numbers
        self._matrices = [torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)]

    def speed(self) -> float:
        """Return the operations per second of one product, 2 ``size``^3 of them."""
        a, b = self._matrices
        return 2.0 * self.size**3 / seconds(lambda: a @ b, self.device)


@cache
def product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of matrix products on a device: the best of several.

    Measured once per process, with as many threads as training, and not taken from a datasheet: other programs on the
    machine slow it down as they slow down training. The matrices have 8,192 rows on a GPU and 1,024 on a CPU; larger
    ones are hardly faster.

    Args:
        device: the device.
        dtype: of the matrices.
    """
    products = _large_products(device, dtype)
    best, spent, start = 0.0, 0.0, time.perf_counter()
    while spent < MEASURED_SECONDS or best == 0.0:
        best = max(best, products.speed())
        spent = time.perf_counter() - start
    return best


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Return the current operations per second of a single matrix product, see `product_peak`.

    Args:
        device: the device.
        dtype: of the matrices.
    """
    return _large_products(device, dtype).speed()


def _large_products(device: torch.device, dtype: torch.dtype) -> Products:
    products = Products(8192 if device.type == "cuda" else 1024, dtype, device)
    products.speed()  # the first one prepares kernels and memory
    return products
