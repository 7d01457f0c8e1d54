"""Processes that work in turns: one per contestant, and while one works the others wait.

So a contestant's peak memory is its own, what it sets (the allocator, the threads) touches nobody else, and a machine
that is slow for a minute is slow for all of them. A worker is told what to do as a line of JSON, and answers with one
line at a time: `ready` once it is warm, then a line of figures for each turn.

This module is imported into every contestant's process before its libraries: it needs the standard library alone.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from minillm.errors import OutsideError, SettingError
from minillm.memory import MIB, peak_mib, resident_mib


class Unavailable(Exception):  # noqa: N818 (no error: a library or a device that is not there)
    """A contestant that cannot take part; the message says why."""


class Turns:
    """What a contestant sees of its turns.

    Args:
        orders: a line for each turn.
        answers: where its own lines go.
    """

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders, self._answers = orders, answers
        self._imports = 0.0
        self._device = "cpu"

    def imported(self, device: str = "cpu") -> None:
        """Note the memory that the imports took: everything is imported, no network is there yet.

        Args:
            device: where the network will be: cpu, or a CUDA device.
        """
        self._device = device
        self._imports = 0.0 if device.startswith("cuda") else resident_mib()

    def ready(self, **facts: Any) -> None:
        """Report that the warm-up is over, with the facts known by then."""
        self._answer({"ready": facts})

    def wait(self) -> dict[str, Any]:
        """Wait for the next turn and return its content; end the process after the last."""
        line = self._orders.readline()
        if not line:
            sys.exit(0)
        return dict(json.loads(line))

    def done(self, **figures: Any) -> None:
        """Hand in a turn's figures; the memory so far is added."""
        self._answer({"done": {"memory": self.memory(), **figures}})

    def memory(self) -> dict[str, float]:
        """Return the peak so far, see `minillm.benchmarking.schema.Memory`."""
        if self._device.startswith("cuda"):
            import torch

            peak = torch.cuda.max_memory_allocated(self._device) / MIB
        else:
            peak = peak_mib()
        return {"peak": peak, "imports": self._imports, "training": peak - self._imports}

    def _answer(self, answer: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


class Worker:
    """A contestant's process, seen from outside; a context that ends it.

    Args:
        target: the contestant, ``module:function``; it takes a `Turns` and the arguments.
        arguments: plain JSON values.
        log: file for whatever the process prints.
        one_core: let it use one core alone, whatever it starts.

    Raises:
        Unavailable: the contestant cannot take part.
        SettingError: a setting that it refuses.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], log: Path, one_core: bool = False) -> None:
        self._log = log
        environment = dict(os.environ)
        package = Path(__file__).parents[2]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), environment.get("PYTHONPATH"))))
        if one_core:
            environment |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        try:
            self.facts: dict[str, Any] = self._ask(
                {"target": target, "arguments": dict(arguments), "one_core": one_core}, "ready"
            )
        except BaseException:
            self.close()
            raise

    def turn(self, **about: Any) -> dict[str, Any]:
        """Let it have its turn, and return the figures.

        Raises:
            Unavailable: it failed, such as for want of memory.
        """
        return self._ask(about, "done")

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # it may have died with our last line unread
                assert stream is not None
                stream.close()
        self._process.kill()  # it waits, or has failed: nothing of it is needed
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, order: Mapping[str, Any], expected: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise Unavailable(self._death())
        answer = json.loads(line)
        if "setting" in answer:
            raise SettingError(*answer["setting"])
        if "outside" in answer:
            raise OutsideError(answer["outside"])
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return dict(answer[expected])

    def _death(self) -> str:
        """Return a description of a process that ended without an answer."""
        status = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        killed = " (killed: out of memory?)" if status == -9 else ""
        return f"its process ended with status {status}{killed}{': ' if last else ''}{last}"


def main() -> NoReturn:
    """Do what the first line says."""
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the process is killed when it is done with
    turns = Turns(sys.stdin, answers)
    order = turns.wait()
    if order["one_core"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    module, _, function = order["target"].partition(":")
    try:
        getattr(importlib.import_module(module), function)(turns, **order["arguments"])
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, SettingError):
            turns._answer({"setting": [error.setting, str(error.value), error.advice]})
        elif isinstance(error, OutsideError):
            turns._answer({"outside": str(error)})
        else:
            name = "" if isinstance(error, Unavailable) else f"{type(error).__name__}: "
            turns._answer({"unavailable": " ".join(f"{name}{error}".split())[:500]})
    sys.exit(0)
