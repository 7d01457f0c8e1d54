"""The machine that figures belong to."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil
import torch

from minillm.benchmarking.schema import Machine, Peak
from minillm.training.trainer import has_fast_bfloat16

LIBRARIES = ("torch", "lightning", "tokenizers", "transformers", "litgpt")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: str, matmul: dict[str, Peak]) -> Machine:
    """Return what the machine is.

    Args:
        device: what the networks run on.
        matmul: its speed, see `minillm.benchmarking.matmul`.
    """
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions,
        "capabilities": sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "bfloat16": has_fast_bfloat16("cpu" if device == "cpu" else "gpu"),
        "matmul": matmul,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
