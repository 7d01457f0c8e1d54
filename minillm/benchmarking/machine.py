"""The machine that the figures belong to."""

import importlib.metadata
import importlib.util
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from minillm.arithmetic import DTYPES, Products
from minillm.benchmarking.loops import prepare_device
from minillm.memory import GIB
from minillm.parallel import cores
from minillm.training.trainer import has_fast_bfloat16

LIBRARIES = ("torch", "lightning", "tokenizers", "transformers", "litgpt")
TRIES = 8


def describe(device: str) -> dict[str, Any]:
    """Return what the machine is, and measure its speed at products of square matrices.

    Args:
        device: what the networks run on.
    """
    fast_bfloat16 = has_fast_bfloat16("cpu" if device == "cpu" else "gpu")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)},
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "bfloat16": fast_bfloat16,
        "matmul": _peaks(device, 2048 if device == "cpu" else 8192, fast_bfloat16),
    }


def _peaks(device: str, size: int, fast_bfloat16: bool) -> dict[str, dict[str, float]]:
    """Return the operations per second, the best of several tries, by dtype."""
    before = torch.get_float32_matmul_precision()
    prepare_device(device)
    # Without instructions for it, one product of bfloat16 takes minutes.
    names = ["float32", "bfloat16"] if fast_bfloat16 else ["float32"]
    products = {name: Products(size, DTYPES[name], device) for name in names}
    tries = [{name: several.speed() for name, several in products.items()} for _ in range(1 + TRIES)]
    torch.set_float32_matmul_precision(before)
    return {name: {"size": size, "flops": max(speeds[name] for speeds in tries[1:])} for name in products}
