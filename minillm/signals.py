"""Ctrl-C and SIGTERM: one line that says how to go on, and the exit status that shells and schedulers know.

Imports nothing heavy: a signal while PyTorch is still being imported is answered too, see `minillm.starting`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from subprocess import Popen
from types import FrameType
from typing import Any

NOTHING_YET = "the same command begins again; the data that it has prepared is kept"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def is_further_process() -> bool:
    """Return whether this is one of several processes that share the same run, and not the first."""
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


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
        self._raised = False
        self._process = 0
        self._before: dict[int, Any] = {}

    def answer(self, starting: bool = False) -> None:
        """Answer from now on, as at first."""
        self.starting, self.waits, self.pending, self._raised = starting, False, None, False
        self.how, self.helpers = None, tuple
        self._process = os.getpid()
        self.install()

    def install(self) -> None:
        """Put the handlers in place, also where another library has put its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows it there alone
        for number in STATUS:
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
        self._raised, self.waits = True, False
        return Interrupted(_status(number))

    def end_helpers(self) -> None:
        """End the processes that share the run."""
        for process in self.helpers():
            process.kill()
            process.wait()
            process.returncode = 0  # where another one ends with an error, Lightning kills this process too

    def say(self) -> None:
        """Show the one line."""
        if is_further_process():
            return
        print(f"stopped: {NOTHING_YET if self.how is None else self.how()}", file=sys.stderr, flush=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a copy of the process that helps it, such as one that makes batches
            if number == signal.SIGTERM:
                os._exit(_status(number))
            return  # Ctrl-C reaches all processes: the first one ends the others
        if self.starting or self._raised:
            self.end_helpers()
            self.say()
            os._exit(_status(number))
        if self.waits and self.pending is None:
            self.pending = number
            return
        raise self.end(number)


def _status(number: int) -> int:
    # Of a further process that ends with an error Lightning would make an end of the first one, before it has ended.
    return 0 if is_further_process() else STATUS[signal.Signals(number)]


signals = Signals()
