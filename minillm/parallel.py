"""Work on all cores: batches go to processes of their own, what becomes of them comes back in order."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from minillm.errors import OutsideError

Item = TypeVar("Item")
Result = TypeVar("Result")

PACKAGE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``, the last one shorter.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def in_order(
    function: Callable[[list[Item]], list[Result]], items: Iterable[list[Item]], processes: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item of all batches with what the function makes of it, in order.

    Few batches are under way at a time: that bounds the memory. The processes are fresh ones, which end with this one
    however it ends. Not forked, because a copy of a process with threads may come to a standstill; nor
    `multiprocessing`'s, which run the user's script again.

    Args:
        function: what a batch's items become; it can be pickled, and so can they.
        items: the batches.
        processes: how many work, beside the one that reads and takes the results; 1: that one does it all.

    Raises:
        OutsideError: a process was ended from outside, as by a machine that has run out of memory.
        Exception: what the function raised.
    """
    if processes == 1:
        for batch in items:
            yield from zip(batch, function(batch), strict=True)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def work(batch: list[Item]) -> list[Result]:
        worker = idle.get()
        try:
            return worker.work(batch)
        finally:
            idle.put(worker)

    under_way: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    with contextlib.ExitStack() as ending:
        threads = ending.enter_context(ThreadPoolExecutor(processes))  # each waits for one process
        for number, batch in enumerate(items):
            if number < processes:
                worker = _Worker(function)
                ending.callback(worker.end)  # before the threads are waited for
                idle.put(worker)
            under_way.append((batch, threads.submit(work, batch)))
            if len(under_way) > 2 * processes:
                batch, future = under_way.popleft()
                yield from zip(batch, future.result(), strict=True)
        for batch, future in under_way:
            yield from zip(batch, future.result(), strict=True)


class _Worker:
    """A process that applies a function to batches."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )
        self._function: Callable[[Any], Any] | None = function

    def work(self, batch: list[Any]) -> list[Any]:
        """Return what the process makes of a batch."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            if self._function is not None:
                pickle.dump(self._function, self._process.stdin)
                self._function = None
            pickle.dump(batch, self._process.stdin)
            self._process.stdin.flush()
            result, error = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as fault:
            advice = "it was ended from outside, perhaps for want of memory; run the same command again"
            raise OutsideError(f"a process that shares the work has ended early: {advice}") from fault
        if error is not None:
            raise error
        return list(result)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """Be a worker: read the function and batches from standard input, until the other side closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    # Where the other side has ended, however it did, there is nothing left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError), answers:
        function = pickle.load(sys.stdin.buffer)
        while True:
            batch = pickle.load(sys.stdin.buffer)
            answer: tuple[Any, Exception | None]
            try:
                answer = function(batch), None
            except Exception as error:
                answer = None, error
            pickle.dump(answer, answers)
            answers.flush()
