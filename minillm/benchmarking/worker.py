"""The processes that the benchmark starts: contestants that take turns, and scripts.

Each contestant has a process of its own, and while one works the others wait. So its peak memory is its own, its
settings (threads, allocator) affect no other, and a machine that is slow for a minute is slow for all. Contestants
import this module, so it imports little.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from minillm import parallel
from minillm.command import resource
from minillm.errors import MiniLLMError, OutsideError
from minillm.memory import MIB, family_mib, peak_mib, resident_mib

Figures = dict[str, Any]
INTERVAL = 0.2  # seconds between two looks at a script's memory


class Unavailable(Exception):  # noqa: N818 (no error: a library or a device that is not there)
    """A contestant that cannot take part; the message says why."""


class Turns:
    """A contestant's turns: iterate over them, and answer each with `done`.

    Args:
        turns: what each is about.
        answer: sends an answer.
    """

    def __init__(self, turns: Iterator[Figures], answer: Callable[[Figures], None]) -> None:
        self._turns, self._answer = turns, answer
        self._imports, self._device = 0.0, "cpu"

    def imported(self, device: str) -> None:
        """Note the memory that the imports took, before there is a network on this device; none on a GPU."""
        self._device = device
        self._imports = 0.0 if device.startswith("cuda") else resident_mib()

    def ready(self, **facts: Any) -> None:
        """End the warm-up, and report what is known now."""
        self._answer(facts)

    def __iter__(self) -> Iterator[Figures]:
        return self._turns

    def done(self, **figures: Any) -> None:
        """Report a turn's figures. Added is the peak memory so far, in MiB: in all, of the imports, the difference."""
        peak = peak_mib()
        if self._device.startswith("cuda"):
            import torch

            peak = torch.cuda.max_memory_allocated(self._device) / MIB
        memory = {"peak": peak, "imports": self._imports, "training": peak - self._imports}
        self._answer({"memory": memory, **figures})


class Worker:
    """A contestant's process, as seen from outside; `close` ends it.

    Args:
        contestant: can be pickled; it warms up, calls `Turns.ready`, then takes its turns.
        log: file for what the process prints.
    """

    def __init__(self, contestant: Callable[[Turns], None], log: Path) -> None:
        self._log = log
        self._process = parallel.Worker(partial(_compete, contestant), parallel.serve_turns, one_thread=False, log=log)

    def turn(self, **about: Any) -> Figures:
        """Give it a turn and return the figures; the first one is the warm-up and returns the facts.

        Raises:
            Unavailable: the contestant cannot take part, or failed, such as for lack of memory.
            MiniLLMError: the contestant's own.
        """
        try:
            return dict(self._process.work(about))
        except parallel.EndedError:
            status = self._process.status()
            killed = " (killed: out of memory?)" if status == -9 else ""
            printed = self._log.read_text(encoding="utf-8", errors="replace").strip()
            last = f": {printed.splitlines()[-1].strip()}" if printed else ""
            raise Unavailable(f"its process ended with status {status}{killed}{last}") from None
        except (MiniLLMError, Unavailable):
            raise
        except Exception as error:
            raise Unavailable(" ".join(f"{type(error).__name__}: {error}".split())[:500]) from error

    def close(self) -> None:
        """End the process."""
        self._process.end()


def _compete(contestant: Callable[[Turns], None], turns: Iterator[Figures], answer: Callable[[Figures], None]) -> None:
    contestant(Turns(turns, answer))


class Cost(NamedTuple):
    """What a script took, with all its processes."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def run_script(name: str, *overrides: str, cores: Sequence[int] | None = None) -> Cost:
    """Run a script of the project as users do.

    Args:
        name: such as ``train``.
        overrides: its arguments.
        cores: that its processes may use; None: all.

    Raises:
        OutsideError: it fails; the message is its own.
    """
    start = time.perf_counter()
    command = [sys.executable, str(resource("scripts") / f"{name}.py"), *overrides]
    worked: dict[int, float] = {}
    peak, errors = 0.0, None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            if cores is not None:
                psutil.Process(process.pid).cpu_affinity([*cores])  # its own processes inherit it
            while errors is None:
                try:
                    errors = process.communicate(timeout=INTERVAL)[1].decode().strip()
                except subprocess.TimeoutExpired:
                    peak = max(peak, family_mib(process.pid, worked))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = errors.splitlines()[-1] if errors else f"status {process.returncode}"
        raise OutsideError(f"scripts/{name}.py: {last}")
    return Cost(time.perf_counter() - start, sum(worked.values()), peak)
