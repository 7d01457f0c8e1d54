"""Scripts in processes of their own, ended at a moment of one's choice."""

import contextlib
import fnmatch
import functools
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import psutil
import torch
from lightning.pytorch.callbacks import Checkpoint

ROOT = Path(__file__).parents[2]
# Each process is a copy of one that has imported all this already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lightning.pytorch", "hydra", "minillm.callbacks", "minillm.evaluation.evaluation"])
PATIENCE = 300  # seconds that a script may take


class Kill(NamedTuple):
    """A training gets SIGKILL in a callback's hook, before the other callbacks' or after them."""

    hook: str
    step: int
    """So many optimizer steps must be complete."""
    after: bool = False
    times: int = 1
    """At the so-manieth call of the hook with so many steps."""


class Touch(NamedTuple):
    """SIGKILL right before a file is opened, renamed or removed."""

    event: str
    """As Python's audit hooks name it: open, os.rename, os.mkdir, os.remove, shutil.rmtree, ..."""
    name: str
    """Of the file, without its folder; a pattern."""
    times: int = 1


class Cut(NamedTuple):
    """The system ends the process in the middle of a write: of the one that would make a file longer than this."""

    size: int


class Sent(NamedTuple):
    """A signal comes from outside once the process has computed for so long."""

    number: signal.Signals
    seconds: float


End = Kill | Touch | Cut | Sent


class Ended(NamedTuple):
    """How a script ended."""

    status: int
    """The exit status; negative for a signal."""
    seconds: float
    """Of computing, about."""


def run_script(
    name: str, folder: Path, output: Path, arguments: Sequence[str], end: End | None = None, cores: int | None = None
) -> Ended:
    """Run a script to its end, and see to it that all processes that it has started end too.

    Where it was not killed, nothing that it writes may be a traceback. Of one that was killed, helping processes that
    PyTorch has started may still write one while they notice it.

    Args:
        name: such as train.
        folder: in which it is called.
        output: the file that gets what it writes to the terminal.
        arguments: of its command line.
        end: when it is ended before; None: it is not.
        cores: that it takes the machine to have; None: those that it has.
    """
    before = output.stat().st_size if output.exists() else 0
    there, here = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_run, args=(name, folder, output, arguments, end, cores, there))
    process.start()
    there.close()
    with contextlib.suppress(EOFError):
        here.recv()  # from here on it is the script that a signal meets
    seconds = _follow(process, end if isinstance(end, Sent) else None)
    process.join(PATIENCE)
    assert process.pid is not None
    alive = [psutil.Process(process.pid)] if process.exitcode is None else []
    alive += _of_session(process.pid)
    _, left = psutil.wait_procs(alive, timeout=60)
    for other in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    assert not left, f"still at work: {left}"
    assert process.exitcode is not None
    if process.exitcode >= 0:
        written = output.read_bytes()[before:].decode("utf-8", "replace")
        assert "Traceback" not in written, written
    return Ended(process.exitcode, seconds)


def _follow(process: Any, sent: Sent | None) -> float:
    """Wait for a process to end, send it a signal when it is time; return how long it has computed."""
    seconds, deadline = 0.0, time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        watched = psutil.Process(process.pid)
        begun = sum(watched.cpu_times()[:2])
        while process.is_alive() and time.monotonic() < deadline:
            seconds = sum(watched.cpu_times()[:2]) - begun
            if sent and seconds >= sent.seconds:
                os.kill(process.pid, sent.number)
                break
            time.sleep(0.002)
    return seconds


def _of_session(leader: int) -> list[psutil.Process]:
    """Return the processes that a script's process, which is gone, has started."""
    found = []
    for other in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(other.pid) == leader:
                found.append(other)
    return found


def _run(
    name: str,
    folder: Path,
    output: Path,
    arguments: Sequence[str],
    end: End | None,
    cores: int | None,
    begun: Connection,
) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the system's own: not that of this process is handed on
    torch.set_num_threads(1)
    os.chdir(folder)
    if cores:
        os.sched_getaffinity = lambda process: set(range(cores))
    sys.argv = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
    with output.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        if isinstance(end, Kill):
            _kill_in(end)
        elif isinstance(end, Touch):
            _kill_before(end)
        elif isinstance(end, Cut):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would make an error of it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (end.size, end.size))

        begun.send(True)
        begun.close()
        runpy.run_path(sys.argv[0], run_name="__main__")


def _kill_before(touch: Touch) -> None:
    process, met = os.getpid(), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal met
        if event != touch.event or os.getpid() != process:
            return
        names = [Path(os.fsdecode(path)).name for path in arguments if isinstance(path, str | bytes | Path)]
        met += any(fnmatch.fnmatchcase(name, touch.name) for name in names)
        if met == touch.times:
            os.kill(process, signal.SIGKILL)

    sys.addaudithook(hook)


def _kill_in(kill: Kill) -> None:
    import minillm.training

    build = minillm.training.build_trainer

    @functools.wraps(build)
    def build_killed(*args: Any, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
        return build(*args, callbacks=[_killer(kill), *callbacks, _killer(kill, Checkpoint)], **options)

    minillm.training.build_trainer = build_killed  # type: ignore[assignment]


def _killer(kill: Kill, base: type[L.Callback] = L.Callback) -> L.Callback:
    """Return the callback that kills; Lightning lets those that keep checkpoints come last."""
    if kill.after != (base is Checkpoint):
        return base()
    calls = Counter[int]()

    def hook(self: L.Callback, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        calls[trainer.global_step] += 1
        if trainer.global_step >= kill.step and calls[trainer.global_step] == kill.times:
            os.kill(os.getpid(), signal.SIGKILL)

    return type("Killer", (base,), {kill.hook: hook})()
