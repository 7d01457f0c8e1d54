"""Ctrl-C and SIGTERM: a line that says how to resume, and the usual exit status.

In a Slurm job SIGUSR1 is handled as well (``--signal=USR1@120``); after it and after SIGTERM the job is requeued.

This module imports little, so that signals are handled while PyTorch is still being imported, see `minillm.starting`.
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
JOB_STATUS = {signal.SIGUSR1: 138} if hasattr(signal, "SIGUSR1") else {}  # not on Windows


class Interrupted(SystemExit):
    """A signal ends the program; not an Exception, so that only cleanup code catches it."""


class Signals:
    """This process's handling of Ctrl-C and SIGTERM.

    While `starting`, a signal ends the process at once. Later it raises `Interrupted`, so that files are closed and
    helper processes ended. While `waits` is set, the first signal is only stored in `pending`, for code that ends the
    program at a better moment, and the second one raises. A further signal ends the process at once.

    This applies to the first of a run's processes. The others store two signals first: they end with the first
    process, at the same step or when it has ended. If they ended by themselves, it would wait for them.

    Attributes:
        starting: whether there is nothing yet to close.
        waits: whether the first signal is stored.
        pending: the stored signal.
        how: returns how a user can resume; None: there is nothing to resume.
        requeues: whether the same command resumes its work, or has not started any.
        helpers: returns the run's other processes, which would wait for this one in vain.
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
        """Handle signals from now on, in the initial state."""
        self.pending = self.pending if self.starting else None  # keep a signal from the start
        self.starting, self.waits, self._raised, self._said, self._kept = starting, False, False, False, 0
        self.how, self.requeues, self.helpers = None, True, tuple
        self._process = os.getpid()
        self.install()

    def install(self) -> None:
        """Install the handlers, also over those of other libraries."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows it only in the main thread
        in_job = "SLURM_JOB_ID" in os.environ
        for number in (*STATUS, *(JOB_STATUS if in_job else ())):
            before = signal.signal(number, self._handle)
            if before != self._handle:
                self._before.setdefault(number, before)

    def restore(self) -> None:
        """Restore the former handlers."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._before = {}

    def end(self, number: int) -> Interrupted:
        """Return the exception to raise for a signal; from now on a further signal ends the process at once."""
        self._raised, self.waits, self._number = True, False, number
        return Interrupted(_status(number))

    def end_helpers(self) -> None:
        """End the run's other processes."""
        for process in self.helpers():
            process.kill()
            process.wait()
            process.returncode = 0  # if another process ends with an error, Lightning kills this one

    def say(self) -> None:
        """Print the line, and requeue the Slurm job if possible; nothing may be left to do after this."""
        if is_further_process() or self._said:
            return
        self._said = True
        how = NOTHING_YET if self.how is None else self.how()
        if not self._can_requeue():
            print(f"stopped: {how}", file=sys.stderr, flush=True)
            return
        kept = "nothing is lost" if how == NOTHING_YET else how.partition("; to go on:")[0]
        # Print first, since Slurm ends this process at once when it requeues the job.
        print(f"stopped: {kept}; the job is queued again, and goes on by itself", file=sys.stderr, flush=True)
        asked = _slurm("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
        if asked.returncode:
            print(f"not queued again ({' '.join(asked.stderr.split())}): {how}", file=sys.stderr, flush=True)

    def _can_requeue(self) -> bool:
        """Return whether to requeue the job: it was submitted by sbatch, and is not being cancelled."""
        job = os.environ.get("SLURM_JOB_ID")
        if job is None or not self.requeues or self._number not in (signal.SIGTERM, *JOB_STATUS):
            return False
        shown = _slurm("scontrol", "show", "job", job).stdout.split()
        return {"JobState=RUNNING", "BatchFlag=1", "Requeue=1"} <= {*shown}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked helper, such as a data loader's worker
            if number == signal.SIGTERM:
                os._exit(_status(number))
            return  # all processes receive Ctrl-C; the first one ends the others
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
        """End the process at once."""
        self._number = number
        self.end_helpers()
        self.say()
        os._exit(_status(number))


def _status(number: int) -> int:
    # If another process ends with an error, Lightning kills the first one.
    return 0 if is_further_process() else {**STATUS, **JOB_STATUS}[signal.Signals(number)]


def _slurm(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


signals = Signals()
