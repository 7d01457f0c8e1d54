"""Parallel work in processes: batches or files go to workers, and results come back in order."""

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
WORTH_PROCESSES = 8_000_000  # bytes of text, some seconds of work: for less, starting processes takes longer
CORES = "MINILLM_CORES"  # environment variable: how many of the machine's cores this program may use
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


def cores() -> int:
    """Return the number of cores that this process may use; see also `minillm.launching`."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CORES, "")
    return max(1, min(int(share), available)) if share.isdecimal() else available


def environment(one_thread: bool = True) -> dict[str, str]:
    """Return environment variables for a worker: it finds this package and uses one thread.

    Args:
        one_thread: whether its libraries use one thread.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return {**(ONE_THREAD if one_thread else {}), "PYTHONPATH": path}


def processes_for(size: int) -> int:
    """Return the number of processes to use for a text: one per core if it is large, otherwise one.

    Args:
        size: UTF-8 bytes of the text.
    """
    return cores() if size > WORTH_PROCESSES else 1


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``; the last list may be shorter.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def weighed_batches(
    items: Iterable[Item], size: int, weight: Callable[[Item], int], heaviest: int
) -> Iterator[list[Item]]:
    """Yield the items in lists of at most ``size``; a list also ends when its weight reaches ``heaviest``.

    If the iteration of items raises, the items before the error are yielded first.

    >>> list(weighed_batches(["a", "b", "cccc", "d"], 3, len, 5))
    [['a', 'b', 'cccc'], ['d']]
    """
    batch: list[Item] = []
    total = 0
    given = _UntilError(items)
    for item in given:
        batch.append(item)
        total += weight(item)
        if len(batch) == size or total >= heaviest:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
    if given.error:
        raise given.error


def in_order(
    function: Callable[[list[Item]], list[Result]], items: Iterable[list[Item]], processes: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item of all batches with its result, in order.

    Only a few batches are in progress at a time, which bounds the memory. The workers are new processes, which end with
    this one however it ends. They are not forked, since the copy of a process with threads can deadlock, and not
    `multiprocessing`'s, which run the user's script again.

    Args:
        function: maps a batch to the results of its items; it, items and results can be pickled.
        items: the batches.
        processes: number of workers, in addition to this process; 1: this process does all the work.

    Raises:
        OutsideError: a worker was killed, for example since the machine ran out of memory.
        Exception: the function's error; or the error of the iteration of batches, after all results before it.
    """
    if processes == 1:
        for batch in items:
            yield from zip(batch, function(batch), strict=True)
        return
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def work(batch: list[Item]) -> list[Result]:
        worker = idle.get()
        try:
            return list(worker.work(batch))
        finally:
            idle.put(worker)

    in_progress: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    with contextlib.ExitStack() as ending:
        threads = ending.enter_context(ThreadPoolExecutor(processes))  # each waits for one worker
        given = _UntilError(items)
        for number, batch in enumerate(given):
            if number < processes:
                worker = Worker(function)
                ending.callback(worker.end)  # called before the pool waits for its threads
                idle.put(worker)
            in_progress.append((batch, threads.submit(work, batch)))
            if len(in_progress) > 2 * processes:
                batch, future = in_progress.popleft()
                yield from zip(batch, future.result(), strict=True)
        for batch, future in in_progress:
            yield from zip(batch, future.result(), strict=True)
        if given.error:
            raise given.error


def apart(
    function: Callable[[list[Item]], list[Any]], batches: Sequence[list[Item]], processes: int, fresh: bool = False
) -> Iterator[None]:
    """Apply the function to each batch, in any order; yield once for each finished batch.

    If a worker is killed, only its batch is lost: a new worker takes the next one.

    Args:
        function: writes its results to disk. It and the batches can be pickled.
        batches: the batches.
        processes: number of workers, in addition to this process.
        fresh: whether each batch gets a new worker.

    Raises:
        Exception: the function's error.
    """
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    started: list[Worker] = []

    def start() -> None:
        started.append(Worker(function))
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

    with ThreadPoolExecutor(processes) as threads:  # each waits for one worker
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
    """A worker process was killed."""


class _UntilError(Iterable[Item]):
    """Items up to an error in their iteration, which is kept to be raised later."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self._items
        except Exception as error:
            self.error = error


def side_by_side(
    function: Callable[[Item, Callable[[Any], None]], Iterator[Result]],
    items: Sequence[Item],
    processes: int,
    folder: Path,
    told: Callable[[int, Any], None],
) -> Iterator[Result]:
    """Yield the function's results for each item, in the order of items, while workers process several items.

    Results of later items wait on disk, so they need no memory and do not stop a worker.

    Args:
        function: yields the results of an item, and can report its progress by calling its second argument. It, items,
            results and reports can be pickled.
        items: a few large ones, such as the parts of a file.
        processes: number of workers, in addition to this process; 1: this process does all the work.
        folder: for temporary files, which disappear with this process however it ends.
        told: called with an item's number and a progress report, also from other threads.

    Raises:
        OutsideError: a worker was killed, or the disk is full.
        Exception: the function's error, after all results before it.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        for number, item in enumerate(items):
            yield from function(item, partial(told, number))
        return
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

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
        threads = ending.enter_context(ThreadPoolExecutor(processes))  # each waits for one worker
        for _ in range(processes):
            worker = Worker(function, _serve_streams)
            ending.callback(worker.end)
            idle.put(worker)
        waiting = zip(items, range(len(items)), kept, strict=True)
        for arguments in islice(waiting, processes + 1):  # one more, so that no worker waits while results are read
            threads.submit(work, *arguments)
        for results in kept:
            for content in results:
                yield pickle.loads(content)
            for arguments in islice(waiting, 1):
                threads.submit(work, *arguments)


class _OnDisk:
    """A queue of byte strings in a temporary file, for one writing and one reading thread.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._changed = threading.Condition()
        self._lengths: deque[int] = deque()  # of the entries not yet taken
        self._taken = self._written = 0  # bytes
        self._closed = False
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # on a full disk; the content is not needed any more
                self._file.close()

    def put(self, content: bytes) -> None:
        """Append an entry."""
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
        """Mark the end of the queue, with an error if there was one."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the entries, then raise the error if the queue was closed with one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lengths or self._closed)
                if not self._lengths:
                    break
                assert self._file
                self._file.seek(self._taken)
                content = self._file.read(self._lengths.popleft())
                self._taken += len(content)
                if self._taken == self._written:  # empty: free the space on disk
                    self._taken = self._written = 0
                    self._file.truncate(0)
            yield content
        if self._error:
            raise self._error


class Worker:
    """A worker process that applies a function to batches or items.

    Args:
        function: the function.
        serve: what the process runs: `_serve`, `_serve_streams` or `serve_turns`.
        one_thread: whether its libraries use one thread.
        log: file for what it prints; None: this process's standard error.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        serve: Callable[[], None] | None = None,
        one_thread: bool = True,
        log: Path | None = None,
    ) -> None:
        serve = serve or _serve
        with log.open("wb") if log else contextlib.nullcontext() as prints:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import {serve.__name__} as serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=prints,
                env={**os.environ, **environment(one_thread)},
            )
        self._function: Callable[..., Any] | None = function

    def work(self, batch: Any) -> Any:
        """Return the results of a batch."""
        with self._ends():
            self._send(batch)
            result, error = self._answer()
        if error is not None:
            raise error
        return result

    def stream(self, item: Any) -> Iterator[tuple[bool, bytes]]:
        """Yield an item's pickled results and progress reports, each with whether it is a result."""
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
            advice = "it was killed, perhaps for lack of memory; run the same command again"
            raise EndedError(f"a worker process has ended early: {advice}") from fault

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def status(self) -> int:
        """Return the exit status of a process that ends by itself."""
        return self._process.wait()


def _serve() -> None:
    """Run a worker that applies a function to batches, until the other side ends."""
    for function, batch, send in _requests():
        try:
            send((function(batch), None))
        except Exception as error:
            send((None, _portable(error)))


def _serve_streams() -> None:
    """Run a worker that answers each item with all results that the function yields."""
    for function, item, send in _requests():
        error: Exception | None = None
        try:
            for result in function(item, lambda value, send=send: send((False, pickle.dumps(value)))):
                send((True, pickle.dumps(result)))
        except Exception as raised:
            error = _portable(raised)
        send((None, error))


def serve_turns() -> None:
    """Run a worker whose function takes its items itself: as an iterator, with a function that answers each."""
    requests = _requests()
    for function, _, send in requests:  # the first item only starts the function
        try:
            function((item for _, item, _ in requests), lambda answer, send=send: send((answer, None)))
        except Exception as error:
            send((None, _portable(error)))


def _requests() -> Iterator[tuple[Callable[..., Any], Any, Callable[[Any], None]]]:
    """Yield the function, each argument from standard input, and a function that sends an answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints go to standard error, since standard output is for answers

    def send(answer: Any) -> None:
        try:
            answers.write(pickle.dumps(answer))
            answers.flush()
        except BrokenPipeError:  # the other side has ended
            os._exit(0)

    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        function = pickle.load(sys.stdin.buffer)
        while True:
            yield function, pickle.load(sys.stdin.buffer), send


def _portable(error: Exception) -> Exception:
    """Return the error, or one with its type's name if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__} in a worker process")
    return error
