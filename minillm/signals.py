"""Ctrl-C and SIGTERM: one line that says how to go on, and the exit status that shells and schedulers know.

In a job of Slurm SIGUSR1 is answered as well (``--signal=USR1@120``), and after it and SIGTERM the job is queued again.

Imports nothing heavy: a signal while PyTorch is still being imported is answered too, see `minillm.starting`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from subprocess import Popen
from types import FrameType
from typing import Any

from minillm.launch import is_further_process

NOTHING_YET = "the same command begins again; the data that it has prepared is kept"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
OF_A_JOB = {signal.SIGUSR1: 138} if hasattr(signal, "SIGUSR1") else {}  # Windows has no such signal
PATIENCE = 5.0  # seconds in which Python answers a signal, unless it waits within PyTorch


class Interrupted(SystemExit):
    """A signal ends the program: no Exception, so that only whoever cleans up meets it on its way."""


class Signals:
    """What this process does about Ctrl-C and SIGTERM.

    At first and while it `starting`, a signal ends the process where it is. Later it raises `Interrupted`, so that
    files are closed and helping processes ended; while it `waits`, the first one is only kept, as ``pending``, for
    whoever can end at a better moment, and the second one raises. One more than that ends the process where it is.

    Attributes:
        starting: whether there is nothing yet that would have to be closed.
        waits: whether the first signal is kept.
        pending: the signal that is kept.
        how: returns what a user can do to go on; None: nothing is there to go on from.
        helpers: returns the processes that share the run with this one and would wait for it in vain.
    """

    def __init__(self) -> None:
        self.starting = True
        self.waits = False
        self.pending: int | None = None
        self.how: Callable[[], str] | None = None
        self.helpers: Callable[[], Iterable[Popen[bytes]]] = tuple
        self._raised = self._said = False
        self._number = 0  # of the signal that ends the process
        self._handled = 0.0  # when Python last answered a signal
        self._watched = False
        self._process = 0
        self._before: dict[int, Any] = {}

    def answer(self, starting: bool = False) -> None:
        """Answer from now on, as at first."""
        self.starting, self.waits, self.pending, self._raised, self._said = starting, False, None, False, False
        self.how, self.helpers = None, tuple
        self._process = os.getpid()
        self.install()

    def install(self) -> None:
        """Put the handlers in place, also where another library has put its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows it there alone
        in_job = "SLURM_JOB_ID" in os.environ
        if in_job and not self._watched:
            self._watch()
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
        """Return whether to queue the job again: Slurm sent a signal and does not end the job, as after scancel."""
        job = os.environ.get("SLURM_JOB_ID")
        if job is None or self._number not in (signal.SIGTERM, *OF_A_JOB):
            return False
        return _slurm("squeue", "--noheader", "--jobs", job, "--format", "%T").stdout.strip() == "RUNNING"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._handled = time.monotonic()
        if os.getpid() != self._process:  # a copy of the process that helps it, such as one that makes batches
            if number == signal.SIGTERM:
                os._exit(_status(number))
            return  # Ctrl-C reaches all processes: the first one ends the others
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

    def _watch(self) -> None:
        """Have a thread of its own answer where Python cannot, for PyTorch waits for another process, which has ended.

        While a network trains all processes end at the same step, so that none waits for another.
        """
        self._watched = True
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # A copy of this process would write what it is sent into the same pipe.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._follow, args=(read,), name="signals", daemon=True).start()

    def _follow(self, pipe: int) -> None:
        while received := os.read(pipe, 1):
            came = time.monotonic()
            if received[0] in (signal.SIGTERM, *OF_A_JOB):
                time.sleep(PATIENCE)
                if self._handled < came - 1 and not self.waits:
                    self._leave(received[0])


def _status(number: int) -> int:
    # Of a further process that ends with an error Lightning would make an end of the first one, before it has ended.
    return 0 if is_further_process() else {**STATUS, **OF_A_JOB}[signal.Signals(number)]


def _slurm(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


signals = Signals()
