"""Tasks whose results are files, and the interface of the engines that run them.

A task is a function and the file that it writes. The file is written whole or not at all, so a task is done if its file
exists. No other state is needed, whichever machine ran the task and however the run ended.
"""

import importlib.util
import logging
import pickle
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from minillm.errors import OutsideError, SettingError
from minillm.files import problem_of, written_whole
from minillm.progress import track

log = logging.getLogger(__name__)

TOKEN = "token"
ERROR = ".error"  # suffix of a result's name: the file of the error that the task raised, pickled
MOST_TASKS = 100_000


class Task(NamedTuple):
    """A piece of work that depends on no other task.

    Attributes:
        function: writes the result to a given path; can be pickled.
        result: the result's file.
    """

    function: Callable[[Path], None]
    result: Path


class Token(NamedTuple):
    """A random word in a file of the working folder: a machine that reads it sees the same folder.

    Attributes:
        folder: the folder.
        word: what the file holds.
    """

    folder: Path
    word: str

    def check(self) -> None:
        """Check that this machine sees the folder.

        Raises:
            OutsideError: it does not.
        """
        with suppress(OSError):
            if (self.folder / TOKEN).read_text(encoding="utf-8") == self.word:
                return
        raise unseen(self.folder, socket.gethostname())


def unseen(folder: Path, node: str) -> OutsideError:
    """Return the error for a machine that does not see the working folder."""
    advice = "set paths.data_dir to a folder on a disk that all nodes share"
    return OutsideError(f"{folder}: the node {node} cannot see it; {advice}")


@dataclass(frozen=True)
class Engine(ABC):
    """Runs tasks; implementations differ in where.

    Args:
        tasks: about how many tasks the work on a corpus is cut into; None: work that can stream through one machine is
            not cut.
        retries: how often a task runs again after its process was killed.

    Raises:
        SettingError: a value that cannot work.
    """

    tasks: int | None = None
    retries: int = 2
    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.tasks is not None and not 1 <= self.tasks <= MOST_TASKS:
            raise SettingError("tasks", self.tasks, f"must be from 1 to {MOST_TASKS:,}, such as 64")
        if self.retries < 0:
            raise SettingError("retries", self.retries, "must be at least 0, such as 2")

    def run(self, tasks: Sequence[Task], folder: Path, what: str) -> None:
        """Run the tasks that have no result yet.

        A task whose process is killed, for example for want of memory, runs again, alone. An error that a task raises
        ends the run; finished results stay for the next run.

        Args:
            tasks: in any order.
            folder: holds all results; every machine sees it at the same path.
            what: the work in a few words, for progress and errors.

        Raises:
            SettingError: the engine is not available.
            OutsideError: a machine cannot see the folder, or a task was killed in each attempt.
            Exception: what a task raised; of several, the first task's error.
        """
        waiting = [task for task in tasks if not task.result.exists()]
        if not waiting:
            return
        if len(waiting) < len(tasks):
            log.info("%s: %d of %d tasks were done before", what, len(tasks) - len(waiting), len(tasks))
        try:
            token = self._begin(waiting, folder)
        except OSError as error:
            raise OutsideError(f"{folder}: cannot be written ({problem_of(error)})") from error
        for attempt in range(1 + self.retries):
            if attempt:
                log.warning("%s: %d tasks ended early and are run again, each alone", what, len(waiting))
            for _ in track(self._perform(waiting, token, alone=attempt > 0), what, len(waiting)):
                pass
            for task in waiting:
                _raise_error(task)
            waiting = [task for task in waiting if not task.result.exists()]
            if not waiting:
                self._end(folder)
                return
        times = f"{1 + self.retries} times" if self.retries else "once"
        advice = f"perhaps for want of memory; {self._advice}, then run the same command again to go on"
        raise OutsideError(f"{what}: the task for {waiting[0].result.name} was ended {times} from outside, {advice}")

    def _begin(self, tasks: Sequence[Task], folder: Path) -> Token:
        """Write the token, and remove the errors of earlier runs."""
        folder.mkdir(parents=True, exist_ok=True)
        token = Token(folder.absolute(), secrets.token_hex(8))
        with written_whole(folder / TOKEN) as file:
            file.write_text(token.word, encoding="utf-8")
        for task in tasks:
            task.result.parent.mkdir(parents=True, exist_ok=True)
            _error_of(task).unlink(missing_ok=True)
        return token

    def _end(self, folder: Path) -> None:
        """Remove the run's own files; called once all results exist."""
        (folder / TOKEN).unlink(missing_ok=True)

    @property
    def _advice(self) -> str:
        """What helps against killed tasks."""
        return "cut the work into more of them (engine.tasks)"

    @abstractmethod
    def _perform(self, tasks: Sequence[Task], token: Token, alone: bool) -> Iterator[None]:
        """Try each task once, by `perform`; yield once per ended task.

        Args:
            tasks: to run.
            token: for each machine to check.
            alone: run each task in a process of its own.
        """


def perform(token: Token, tasks: Sequence[Task]) -> list[None]:
    """Run tasks one after the other; write an error that a task raises beside its result.

    Raises:
        OutsideError: this machine does not see the working folder.
    """
    token.check()
    for task in tasks:
        if task.result.exists():
            continue
        try:
            with written_whole(task.result) as file:
                task.function(file)
        except Exception as error:
            with written_whole(_error_of(task)) as file:
                file.write_bytes(pickle.dumps(_portable(error)))
    return [None] * len(tasks)


def ended(task: Task) -> bool:
    """Return whether a task has written a result or an error."""
    return task.result.exists() or _error_of(task).exists()


def needs(engine: str, module: str) -> None:
    """Refuse an engine whose library is not installed.

    Raises:
        SettingError: it is not.
    """
    if importlib.util.find_spec(module) is None:
        raise SettingError("engine", engine, f"needs {module}; pip install -e '.[{engine}]'")


def _error_of(task: Task) -> Path:
    return task.result.with_name(task.result.name + ERROR)


def _raise_error(task: Task) -> None:
    """Raise what a task raised, if it did."""
    if not (path := _error_of(task)).exists():
        return
    try:
        error = pickle.loads(path.read_bytes())
    finally:
        path.unlink(missing_ok=True)
    raise error


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled; an error of the disk becomes one line."""
    if isinstance(error, OSError):
        return OutsideError(f"{error.filename or 'the working folder'}: {problem_of(error)} ({socket.gethostname()})")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
