"""How fast this machine trains: a few seconds of real training steps, at several widths and in each precision."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from minillm.arithmetic import seconds
from minillm.data import Batch
from minillm.memory import available_memory
from minillm.planning.shapes import Form
from minillm.training import TrainingModule

NARROWEST_WIDTH = 64  # channels
WIDTH_RATIO = 1.9  # from one measured width to the next, at least
SLOWEST_STEP = 0.5  # seconds; where a step takes longer, no wider network is measured
MEASURED_ROUNDS = 3  # in each, every network has its turn: a moment's other work does not fall on one of them alone
MEASURED_TURN = 0.3  # seconds of steps in each turn, and two steps at least


@dataclass(frozen=True)
class Machine:
    """What a machine does in training.

    Args:
        device: where it computes, such as ``cpu``.
        precision: of `trainer.precision`, the faster one.
        speeds: pairs of a width and the floating-point operations per second at that width, as `minillm.arithmetic`
            counts them, by rising width. They grow with the width: small matrices do not fill a machine.
        memory: bytes that a training may use.
        processes: that share the work.
    """

    device: str
    precision: str
    speeds: tuple[tuple[int, float], ...]
    memory: int
    processes: int = 1

    def flops_per_second(self, width: int) -> float:
        """Return the operations per second at a width, interpolated between the measured ones on logarithmic axes.

        >>> round(Machine("cpu", "32-true", ((64, 1e9), (256, 4e9)), 2**30).flops_per_second(128))
        2000000000
        """
        widths, speeds = np.log(self.speeds).T
        return self.processes * float(np.exp(np.interp(np.log(width), widths, speeds)))


@dataclass(frozen=True)
class Probe:
    """A network to measure the machine with.

    Args:
        module: its training, on its device.
        batch: what a step learns from, on that device too.
        flops: operations of a step.
        steps: seconds of each measured step, by precision.
    """

    module: TrainingModule
    batch: Batch
    flops: float
    steps: dict[str, list[float]] = field(default_factory=dict)

    def speed(self, precision: str) -> float:
        """Return the operations per second of its median step."""
        return self.flops / median(self.steps[precision])


def measure_machine(
    probe: Callable[[Form], Probe],
    forms: Sequence[Form],
    device: torch.device,
    precisions: Sequence[str],
    processes: int = 1,
) -> Machine:
    """Measure this machine, from narrow to wide networks, until a step takes long.

    Args:
        probe: makes the training of a form.
        forms: that there are to choose from, by rising width; of similar widths one is measured.
        device: where.
        precisions: of `trainer.precision`, one of which the training will have.
        processes: that share the training's work; this one measures its own part.
    """
    probes: dict[int, Probe] = {}
    for form in forms:
        least = max(NARROWEST_WIDTH, WIDTH_RATIO * max(probes, default=0))
        if form.embedding_dim < least and (probes or form is not forms[-1]):
            continue
        made = probes[form.embedding_dim] = probe(form)
        for precision in precisions:
            _run_steps(made, device, precision)  # the first ones are slower
            made.steps[precision].clear()
        if min(_run_steps(made, device, precision) for precision in precisions) > SLOWEST_STEP:
            break
    for _ in range(MEASURED_ROUNDS):
        for made in probes.values():
            for precision in precisions:
                _run_steps(made, device, precision, MEASURED_TURN)
    speeds = {
        precision: tuple((width, made.speed(precision)) for width, made in probes.items()) for precision in precisions
    }
    fastest = max(precisions, key=lambda precision: math.prod(speed for _, speed in speeds[precision]))
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return Machine(device.type, fastest, speeds[fastest], memory, processes)


def _run_steps(probe: Probe, device: torch.device, precision: str, at_least: float = 0.0) -> float:
    """Train two steps, or for some seconds; keep how long each step took, and return the last one's seconds."""
    module = probe.module
    module.network.train()
    optimizer = module.make_optimizer(module.network.named_parameters())
    half = torch.bfloat16 if "bf16" in precision else None
    steps = probe.steps.setdefault(precision, [])

    def step() -> None:
        with torch.autocast(device.type, half) if half else nullcontext():
            loss = module.training_step(probe.batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*trainer. reference is not registered.*")  # nothing is logged here
        step()  # makes the optimizer's state
        begin, count = time.perf_counter(), 0
        while count < 2 or time.perf_counter() - begin < at_least:
            steps.append(seconds(step, device))
            count += 1
    return steps[-1]
