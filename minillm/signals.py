"""Ctrl-C and SIGTERM: one line that says how to go on, and the exit status that shells and schedulers know.

In a job of Slurm SIGUSR1 is answered as well (``--signal=USR1@120``), and after it and SIGTERM the job is queued again.

Imports nothing heavy: a signal while PyTorch is still being imported is answered too, see `minillm.starting`.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from subprocess import Popen
from types import FrameType
from typing import Any

from minillm.launch import is_further_process

NOTHING_YET = "the same command begins again; the data that it has prepared is kept"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
OF_A_JOB = {signal.SIGUSR1: 138} if hasattr(signal, "SIGUSR1") else {}  # Windows has no such signal


class Interrupted(SystemExit):
    """A signal ends the program: no Exception, so that only whoever cleans up meets it on its way."""


class Signals:
    """What this process does about Ctrl-C and SIGTERM.

    At first and while it `starting`, a signal ends the process where it is. Later it raises `Interrupted`, so that
    files are closed and helping processes ended; while it `waits`, the first one is only kept, as ``pending``, for
    whoever can end at a better moment, and the second one raises. One more than that ends the process where it is.

    Of several processes that share a run the first one does so. The others keep two signals first: they end with it,
    at the same step or when it has ended. If they ended by themselves it would wait for them.

    Attributes:
        starting: whether there is nothing yet that would have to be closed.
        waits: whether the first signal is kept.
        pending: the signal that is kept.
        how: returns what a user can do to go on; None: nothing is there to go on from.
        requeues: whether the same command goes on with what it has begun, or has begun nothing.
        helpers: returns the processes that share the run with this one and would wait for it in vain.
    """

    def __init__(self) -> None:
        self.starting = True
        self.waits = False
        self.pending: int | None = None
        self.how: Callable[[], str] | None = None
        self.requeues = True
        self.helpers: Callable[[], Iterable[Popen[bytes]]] = tuple
        self._raised = self._said = False
        self._kept = 0  # signals, by a further process
        self._number = 0  # of the signal that ends the process
        self._process = 0
        self._before: dict[int, Any] = {}

    def answer(self, starting: bool = False) -> None:
        """Answer from now on, as at first."""
        self.pending = self.pending if self.starting else None  # what came until now, for whoever keeps it
        self.starting, self.waits, self._raised, self._said, self._kept = starting, False, False, False, 0
        self.how, self.requeues, self.helpers = None, True, tuple
        self._process = os.getpid()
        self.install()

    def install(self) -> None:
        """Put the handlers in place, also where another library has put its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows it there alone
        in_job = "SLURM_JOB_ID" in os.environ
        for number in (*STATUS, *(OF_A_JOB if in_job else ())):
            before = signal.signal(number, self._handle)
            if before != self._handle:
                self._before.setdefault(number, before)

    def restore(self) -> None:
        """Put back what was there before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._before = {}

    def end(self, number: int) -> Interrupted:
        """Return what to raise for a signal; from then on a further one ends the process where it is."""
        self._raised, self.waits, self._number = True, False, number
        return Interrupted(_status(number))

    def end_helpers(self) -> None:
        """End the processes that share the run."""
        for process in self.helpers():
            process.kill()
            process.wait()
            process.returncode = 0  # where another one ends with an error, Lightning kills this process too

    def say(self) -> None:
        """Show the one line; of a job that Slurm can run again, have it queued: nothing may be left to do by then."""
        if is_further_process() or self._said:
            return
        self._said = True
        how = NOTHING_YET if self.how is None else self.how()
        if not self._can_requeue():
            print(f"stopped: {how}", file=sys.stderr, flush=True)
            return
        kept = "nothing is lost" if how == NOTHING_YET else how.partition("; to go on:")[0]
        # Before it is: Slurm ends this process at once then.
        print(f"stopped: {kept}; the job is queued again, and goes on by itself", file=sys.stderr, flush=True)
        asked = _slurm("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
        if asked.returncode:
            print(f"not queued again ({' '.join(asked.stderr.split())}): {how}", file=sys.stderr, flush=True)

    def _can_requeue(self) -> bool:
        """Return whether to queue the job again: it came by sbatch, and Slurm does not end it, as after scancel."""
        job = os.environ.get("SLURM_JOB_ID")
        if job is None or not self.requeues or self._number not in (signal.SIGTERM, *OF_A_JOB):
            return False
        shown = _slurm("scontrol", "show", "job", job).stdout.split()
        return {"JobState=RUNNING", "BatchFlag=1", "Requeue=1"} <= {*shown}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a copy of the process that helps it, such as one that makes batches
            if number == signal.SIGTERM:
                os._exit(_status(number))
            return  # Ctrl-C reaches all processes: the first one ends the others
        if is_further_process() and self._kept < 2:
            self._kept += 1
            self.pending = self.pending or number
            return
        if self.starting or self._raised:
            self._leave(number)
        if self.waits and self.pending is None:
            self.pending = number
            return
        raise self.end(number)

    def _leave(self, number: int) -> None:
        """End the process where it is."""
        self._number = number
        self.end_helpers()
        self.say()
        os._exit(_status(number))


def _status(number: int) -> int:
    # Of a further process that ends with an error Lightning would make an end of the first one, before it has ended.
    return 0 if is_further_process() else {**STATUS, **OF_A_JOB}[signal.Signals(number)]


def _slurm(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


signals = Signals()
