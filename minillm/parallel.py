"""Work on all cores: batches or files go to processes of their own; what becomes of them comes back in order."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from minillm.errors import OutsideError

Item = TypeVar("Item")
Result = TypeVar("Result")

PACKAGE = Path(__file__).parent
WORTH_PROCESSES = 8_000_000  # bytes of text, some seconds of work: to start processes for less takes longer
CORES = "MINILLM_CORES"  # the environment's variable for how many of the machine's cores are for this program
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


def cores() -> int:
    """Return how many cores this process may use, see `minillm.launching` too."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CORES, "")
    return max(1, min(int(share), there)) if share.isdecimal() else there


def environment() -> dict[str, str]:
    """Return the variables with which another process finds this package and keeps to one thread."""
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return {**ONE_THREAD, "PYTHONPATH": path}


def processes_for(size: int) -> int:
    """Return how many processes should share the work on a text: all cores where there is much of it, else one.

    Args:
        size: its UTF-8 bytes.
    """
    return cores() if size > WORTH_PROCESSES else 1


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``, the last one shorter.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def weighed_batches(
    items: Iterable[Item], size: int, weight: Callable[[Item], int], heaviest: int
) -> Iterator[list[Item]]:
    """Yield the items in lists of at most ``size``, each ended early by the item with which it weighs ``heaviest``.

    Where the items end in an error, those before it come first.

    >>> list(weighed_batches(["a", "b", "cccc", "d"], 3, len, 5))
    [['a', 'b', 'cccc'], ['d']]
    """
    batch: list[Item] = []
    total = 0
    given = _UntilFault(items)
    for item in given:
        batch.append(item)
        total += weight(item)
        if len(batch) == size or total >= heaviest:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
    if given.fault:
        raise given.fault


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
        Exception: what the function raised; what the batches ended in, once all before it have been taken.
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
        given = _UntilFault(items)
        for number, batch in enumerate(given):
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
        if given.fault:
            raise given.fault


def apart(
    function: Callable[[list[Item]], list[Any]], batches: Sequence[list[Item]], processes: int, fresh: bool = False
) -> Iterator[None]:
    """Have the function work on each batch, in no order; yield as often as one has ended.

    A process that is ended from outside takes its batch with it and no other one: a new process goes on with the next.

    Args:
        function: leaves what it makes of a batch on disk. It can be pickled, and so can the batches.
        batches: what it works on.
        processes: how many work, beside this one.
        fresh: each batch gets a process of its own.

    Raises:
        Exception: what the function raised.
    """
    workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    started: list[_Worker] = []

    def start() -> None:
        started.append(_Worker(function))
        workers.put(started[-1])

    def work(batch: list[Item]) -> None:
        worker, ended = workers.get(), fresh
        try:
            worker.work(batch)
        except EndedError:
            ended = True
        finally:
            if ended:
                worker.end()
                start()
            else:
                workers.put(worker)

    with ThreadPoolExecutor(processes) as threads:  # each waits for one process
        try:
            for _ in range(min(processes, len(batches))):
                start()
            for future in as_completed([threads.submit(work, batch) for batch in batches]):
                future.result()
                yield
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in list(started):
                worker.end()


class EndedError(OutsideError):
    """A process that shares the work was ended from outside."""


class _UntilFault(Iterable[Item]):
    """Items up to the error that they may end in; it is kept for when all of them have been dealt with."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.fault: Exception | None = None

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self._items
        except Exception as error:
            self.fault = error


def side_by_side(
    function: Callable[[Item, Callable[[Any], None]], Iterator[Result]],
    items: Sequence[Item],
    processes: int,
    folder: Path,
    told: Callable[[int, Any], None],
) -> Iterator[Result]:
    """Yield all that the function yields for each item, the items in order, while processes work on several of them.

    What is yielded for an item before it is its turn waits on disk, so that neither memory nor a core waits for it.

    Args:
        function: makes results of an item; may tell, through its second argument, how far it is. It can be pickled,
            and so can the items and what it yields and tells.
        items: a few large ones, such as the parts of a file.
        processes: how many work, beside the one that takes the results; 1: that one does it all.
        folder: for temporary files, which vanish with this process however it ends.
        told: is called with an item's number and what the function told, from other threads too.

    Raises:
        OutsideError: a process was ended from outside, or the disk is full.
        Exception: what the function raised, once all that it yielded before has been taken.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        for number, item in enumerate(items):
            yield from function(item, partial(told, number))
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def work(item: Item, number: int, results: _OnDisk) -> None:
        worker = idle.get()
        try:
            for is_result, content in worker.stream(item):
                if is_result:
                    results.put(content)
                else:
                    told(number, pickle.loads(content))
            results.close()
        except Exception as error:
            results.close(error)
        finally:
            idle.put(worker)

    with contextlib.ExitStack() as ending:
        kept = [ending.enter_context(_OnDisk(folder)) for _ in items]
        threads = ending.enter_context(ThreadPoolExecutor(processes))  # each waits for one process
        for _ in range(processes):
            worker = _Worker(function, _serve_streams)
            ending.callback(worker.end)
            idle.put(worker)
        waiting = zip(items, range(len(items)), kept, strict=True)
        for arguments in islice(waiting, processes + 1):  # one more, so that no process waits for the disk to be read
            threads.submit(work, *arguments)
        for results in kept:
            for content in results:
                yield pickle.loads(content)
            for arguments in islice(waiting, 1):
                threads.submit(work, *arguments)


class _OnDisk:
    """A queue of bytes in a temporary file: one thread puts them in, another takes them out.

    Args:
        folder: where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._changed = threading.Condition()
        self._lengths: deque[int] = deque()  # of what is still to be taken
        self._taken = self._written = 0  # bytes
        self._closed = False
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # what is left unwritten on a full disk is not wanted any more
                self._file.close()

    def put(self, content: bytes) -> None:
        """Put something in."""
        with self._changed:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._file.seek(self._written)
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                raise OutsideError(f"{self._folder}: cannot be written ({error.strerror or error})") from error
            self._written += len(content)
            self._lengths.append(len(content))
            self._changed.notify()

    def close(self, error: Exception | None = None) -> None:
        """Say that nothing more comes, or the error for which it ends."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify()

    def __iter__(self) -> Iterator[bytes]:
        """Yield all that is put in, then raise the error that it ended with."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lengths or self._closed)
                if not self._lengths:
                    break
                assert self._file
                self._file.seek(self._taken)
                content = self._file.read(self._lengths.popleft())
                self._taken += len(content)
                if self._taken == self._written:  # the room on disk is free again
                    self._taken = self._written = 0
                    self._file.truncate(0)
            yield content
        if self._error:
            raise self._error


class _Worker:
    """A process that applies a function to what it is given.

    Args:
        function: what it applies.
        serve: what the process runs, one of the functions at the end of this module.
    """

    def __init__(self, function: Callable[..., Any], serve: Callable[[], None] | None = None) -> None:
        serve = serve or _serve
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import {serve.__name__} as serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment()},
        )
        self._function: Callable[..., Any] | None = function

    def work(self, batch: list[Any]) -> list[Any]:
        """Return what the process makes of a batch."""
        with self._ends():
            self._send(batch)
            result, error = self._answer()
        if error is not None:
            raise error
        return list(result)

    def stream(self, item: Any) -> Iterator[tuple[bool, bytes]]:
        """Yield what the process makes of an item, pickled, each with whether it is a result or something told."""
        with self._ends():
            self._send(item)
        while True:
            with self._ends():
                kind, content = self._answer()
            if kind is None:
                break
            yield kind, content
        if content is not None:
            raise content

    def _send(self, content: Any) -> None:
        assert self._process.stdin
        if self._function is not None:
            pickle.dump(self._function, self._process.stdin)
            self._function = None
        pickle.dump(content, self._process.stdin)
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout
        return pickle.load(self._process.stdout)

    @contextlib.contextmanager
    def _ends(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError, pickle.UnpicklingError) as fault:
            advice = "it was ended from outside, perhaps for want of memory; run the same command again"
            raise EndedError(f"a process that shares the work has ended early: {advice}") from fault

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """Be a worker: apply a function to batches, until the other side ends."""
    for function, batch, send in _requests():
        try:
            send((function(batch), None))
        except Exception as error:
            send((None, _portable(error)))


def _serve_streams() -> None:
    """Be a worker that answers each item with all that the function yields for it."""
    for function, item, send in _requests():
        error: Exception | None = None
        try:
            for result in function(item, lambda value, send=send: send((False, pickle.dumps(value)))):
                send((True, pickle.dumps(result)))
        except Exception as raised:
            error = _portable(raised)
        send((None, error))


def _requests() -> Iterator[tuple[Callable[..., Any], Any, Callable[[Any], None]]]:
    """Yield the function and each argument that come in from standard input, and what sends an answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer

    def send(answer: Any) -> None:
        try:
            answers.write(pickle.dumps(answer))
            answers.flush()
        except BrokenPipeError:  # the other side has ended, however it did: there is nothing left to do
            os._exit(0)

    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        function = pickle.load(sys.stdin.buffer)
        while True:
            yield function, pickle.load(sys.stdin.buffer), send


def _portable(error: Exception) -> Exception:
    """Return the error, or one that tells its kind where it cannot go from process to process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__} in a process that shares the work")
    return error
