"""How fast the machine multiplies matrices: what the networks' speed is compared with."""

import torch

from minillm.benchmarking.loops import prepare_device, seconds
from minillm.benchmarking.worker import Turns

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def multiply(turns: Turns, device: str, size: int) -> None:
    """Measure the speed of matrix products; one try of each dtype a turn.

    Args:
        turns: one's turns.
        device: where.
        size: rows of each of the two matrices, which are square.
    """
    prepare_device(device)
    matrices = {
        name: [torch.randn(size, size, device=device).to(dtype) for _ in range(2)] for name, dtype in DTYPES.items()
    }

    def speed(name: str) -> float:
        a, b = matrices[name]
        return 2.0 * size**3 / seconds(lambda: a @ b, device)

    for name in DTYPES:
        speed(name)
    turns.ready(size=size)
    while True:
        turns.wait()
        turns.done(flops={name: speed(name) for name in DTYPES})
