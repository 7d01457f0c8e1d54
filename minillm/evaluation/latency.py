"""Latency and memory of predictions."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from minillm.evaluation.schema import Latency, MeanStd, Memory
from minillm.memory import MIB, peak_mib
from minillm.tokenization import BOS, SPECIAL_TOKENS


@torch.inference_mode()
def latency(network: nn.Module, vocab_size: int, max_length: int, device: torch.device, runs: int) -> Latency:
    """Time a forward pass over ``max_length`` tokens, and decoding one token after ``max_length - 1``; batch size 1.

    Args:
        network: in eval mode, on ``device``.
        vocab_size: V.
        max_length: tokens of context.
        device: of the network; synchronized at each reading of the clock.
        runs: timed runs, after a tenth as many warm-up runs.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIAL_TOKENS), vocab_size, (1, max_length), generator=generator)
    ids[0, 0] = BOS
    ids = ids.to(device)
    return {
        "forward_ms": _time(lambda: network(ids), device, runs),
        "token_ms": _time(_decoding(network, ids), device, runs) if hasattr(network, "new_cache") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "runs": runs,
    }


def memory(network: nn.Module, device: torch.device) -> Memory:
    """Return the size of the network, and the peak memory of the GPU or the process so far."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "parameter_mib": size / MIB,
        "peak_mib": torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else peak_mib(),
    }


def _decoding(network: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """Return a function that decodes one token after the same prompt each time."""
    cache = network.new_cache(1, ids.size(1))  # type: ignore[operator]
    network(ids[:, :-1], None, cache)
    length = cache.length

    def decode() -> Tensor:
        cache.length = length
        logits: Tensor = network(ids[:, -1:], None, cache)
        return logits

    return decode


def _time(run: Callable[[], Tensor], device: torch.device, runs: int) -> MeanStd:
    times = []
    for number in range(runs + runs // 10):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= runs // 10:
            times.append(1000 * (time.perf_counter() - start))
    return {"mean": float(np.mean(times)), "std": float(np.std(times))}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
