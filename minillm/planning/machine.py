"""How fast this machine trains: a few seconds of real training steps, at several widths and in each precision."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from minillm.arithmetic import seconds
from minillm.data import Batch
from minillm.memory import available_memory
from minillm.planning.shapes import Form
from minillm.training import TrainingModule

NARROWEST = 64  # channels that are measured
APART = 1.9  # times as many channels has the next outline
SLOWEST = 0.5  # seconds of a step behind which no wider outline is measured
ENOUGH = 0.5  # seconds of steps that are measured of an outline and precision


@dataclass(frozen=True)
class Machine:
    """What a machine does in training.

    Args:
        device: where it computes, such as ``cpu``.
        precision: of `trainer.precision`, the faster one.
        speeds: pairs of a width and the operations per second that training of it needs of `minillm.arithmetic`'s
            count, by rising width. They grow with the width: small matrices keep a machine less busy.
        memory: bytes that a training may have.
        processes: that share the work.
    """

    device: str
    precision: str
    speeds: tuple[tuple[int, float], ...]
    memory: int
    processes: int = 1

    def flops_per_second(self, width: int) -> float:
        """Return the operations per second at a width: in logarithms on a line between two measured ones.

        >>> round(Machine("cpu", "32-true", ((64, 1e9), (256, 4e9)), 2**30).flops_per_second(128))
        2000000000
        """
        widths, speeds = np.log(self.speeds).T
        return self.processes * float(np.exp(np.interp(np.log(width), widths, speeds)))


@dataclass(frozen=True)
class Outline:
    """A network to measure the machine with.

    Args:
        module: the training of it, on its device.
        batch: what a step learns from, there too.
        flops: that the step needs.
    """

    module: TrainingModule
    batch: Batch
    flops: float


def measured(
    outline: Callable[[Form], Outline],
    forms: Sequence[Form],
    device: torch.device,
    precisions: Sequence[str],
    processes: int = 1,
) -> Machine:
    """Measure this machine, from narrow to wide, until a step takes long.

    Args:
        outline: makes the training of a form.
        forms: that there are to choose from, by rising width; of those that are alike one is measured.
        device: where.
        precisions: of `trainer.precision`, one of which the training will have.
        processes: that share the training's work; this one measures its own part.
    """
    speeds: dict[str, list[tuple[int, float]]] = {precision: [] for precision in precisions}
    widest = 0
    for form in forms:
        if form.embedding_dim < max(NARROWEST, APART * widest) and (widest or form is not forms[-1]):
            continue
        made, widest = outline(form), form.embedding_dim
        taken = {precision: _step(made, device, precision) for precision in precisions}
        for precision in precisions:
            speeds[precision].append((widest, made.flops / taken[precision]))
        if max(taken.values()) > SLOWEST:
            break
    fastest = max(precisions, key=lambda precision: math.prod(speed for _, speed in speeds[precision]))
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return Machine(device.type, fastest, tuple(speeds[fastest]), memory, processes)


def _step(outline: Outline, device: torch.device, precision: str) -> float:
    """Return the seconds of a training step: the median of those that fit into a moment."""
    module = outline.module
    module.network.train()
    optimizer = module.make_optimizer(module.network.named_parameters())
    half = torch.bfloat16 if "bf16" in precision else None

    def step() -> None:
        with torch.autocast(device.type, half) if half else nullcontext():
            loss = module.training_step(outline.batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*trainer. reference is not registered.*")  # nothing is logged here
        step()
        step()
        taken: list[float] = []
        end = time.perf_counter() + ENOUGH
        while time.perf_counter() < end or len(taken) < 3:
            taken.append(seconds(step, device))
    return sorted(taken)[len(taken) // 2]
