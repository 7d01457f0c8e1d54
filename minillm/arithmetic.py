"""How much arithmetic a network needs, and how fast the machine does it: what MFU is computed of.

The standard count: for each token and each pass forward a weight in a matrix costs 2 operations, and backward twice as
many: 6 N in all. Attention multiplies queries with keys and weights with values, 2 x 2 T d operations a layer forward,
and backward twice as many: 12 L d T. That is the count of Chowdhery et al. (2022), "PaLM", appendix B: no half for
causal attention, nothing for what is computed anew, nothing for norms, activations, softmax or dropout. So MFU is what
the model needs over what the machine can do, whatever the implementation does meanwhile.

Light: the peers of a benchmark import it too.
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
BACKWARD = 2  # times what the pass forward costs
MEASURED_SECONDS = 0.2


def matrix_parameters(network: nn.Module) -> int:
    """Return N: the weights that tokens are multiplied with.

    Looked-up rows are not among them: an embedding counts only where a linear layer shares its weights (a tied head).
    """
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
    """Return 6 N + 12 L d T: operations of forward and backward for one token.

    Args:
        network: the network.
        num_layers: L, its attention layers.
        embedding_dim: d, heads times channels a head.
        max_length: T, tokens per row.
    """
    return 6.0 * matrix_parameters(network) + 12.0 * num_layers * embedding_dim * max_length


def counted_flops_per_token(network: nn.Module, length: int) -> float:
    """Return the same for any network that maps ids (B, T) to logits, as PyTorch counts a pass forward.

    Args:
        network: the network; it is left in its mode, and draws no random numbers.
        length: T, tokens per row.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        ids = torch.zeros((1, length), dtype=torch.long, device=device)
        # Of the fused attention kernels not all are counted, nor of those that serve where no gradient is asked for; as
        # plain products all of it is.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(ids)
    finally:
        network.train(was_training)
    return (1 + BACKWARD) * counter.get_total_flops() / length


class Stopwatch:
    """Seconds between two moments: on a GPU those at which the device gets there (CUDA events).

    Args:
        device: where the work is done.
    """

    def __init__(self, device: str | torch.device) -> None:
        self._events: tuple[Any, Any] | None = None
        if torch.device(device).type == "cuda":
            self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[assignment]
        self._start = 0.0

    def start(self) -> None:
        """Note the first moment; what was asked of the device before is waited for."""
        if self._events:
            torch.cuda.synchronize()
            self._events[0].record()
        else:
            self._start = time.perf_counter()

    def stop(self) -> float:
        """Return the seconds since then, with all the work asked of the device meanwhile."""
        if self._events:
            self._events[1].record()
            self._events[1].synchronize()
            return float(self._events[0].elapsed_time(self._events[1])) / 1000
        return time.perf_counter() - self._start


def seconds(work: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Return how long a piece of work takes."""
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
        generator = torch.Generator(device).manual_seed(0)  # the training's random numbers stay its own
        self._matrices = [torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)]

    def speed(self) -> float:
        """Return the operations per second of one product, 2 ``size``^3 of them."""
        a, b = self._matrices
        return 2.0 * self.size**3 / seconds(lambda: a @ b, self.device)


@cache
def product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many operations per second the machine reaches in matrix products: the best of those of a moment.

    Measured once in a process, with as many threads as training has, and not taken from a datasheet: beside other work
    on the machine it is lower, and so is training. Of matrices of 8,192 rows on a GPU and 1,024 on a processor, where
    larger ones are hardly faster.

    Args:
        device: where.
        dtype: of the matrices.
    """
    products = _large_products(device, dtype)
    best, spent, start = 0.0, 0.0, time.perf_counter()
    while spent < MEASURED_SECONDS or best == 0.0:
        best = max(best, products.speed())
        spent = time.perf_counter() - start
    return best


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many operations per second a single product reaches now, of the matrices of `product_peak`.

    Args:
        device: where.
        dtype: of the matrices.
    """
    return _large_products(device, dtype).speed()


def _large_products(device: torch.device, dtype: torch.dtype) -> Products:
    products = Products(8192 if device.type == "cuda" else 1024, dtype, device)
    products.speed()  # the first one prepares kernels and memory
    return products
