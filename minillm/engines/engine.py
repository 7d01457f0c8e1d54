"""Tasks that leave their results as files, and what runs them.

A task is a function and the file that it writes. The file is written whole or not at all, so it alone says whether the
task is done: nothing else has to be remembered, on whatever machine the task ran and however the run ended.
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
ERROR = ".error"  # after a result's name: what the task raised, pickled
MOST_TASKS = 100_000


class Task(NamedTuple):
    """A piece of work that depends on no other one.

    Attributes:
        function: writes the result to the path that it is given; it can be pickled.
        result: where the result lies once the task is done.
    """

    function: Callable[[Path], None]
    result: Path


class Token(NamedTuple):
    """A random word in a file of the working folder: who reads it there sees the same folder.

    Attributes:
        folder: the folder.
        word: what the file holds.
    """

    folder: Path
    word: str

    def check(self) -> None:
        """Make sure that this machine sees the folder.

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
    """Runs tasks; each implementation says where.

    Args:
        tasks: into about how many tasks the work on a corpus is cut; None: whatever streams through one machine is not
            cut at all.
        retries: how often a task whose process was ended from outside is run again.

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
        """Have the result of each task on disk; those that are there already are not made again.

        A task that dies, as by a machine that runs out of memory, is run again alone. What a task raises ends the run
        at once, the first task's error first; the results that are there stay for the next run.

        Args:
            tasks: in any order.
            folder: all results lie in it; whoever does a task sees it at the same path.
            what: what is being done, in a few words.

        Raises:
            SettingError: the engine is not there.
            OutsideError: a machine that cannot see the folder; a task that dies again and again.
            Exception: what a task raised.
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
        """Put the token into the folder, and take away what earlier runs raised."""
        folder.mkdir(parents=True, exist_ok=True)
        token = Token(folder.absolute(), secrets.token_hex(8))
        with written_whole(folder / TOKEN) as file:
            file.write_text(token.word, encoding="utf-8")
        for task in tasks:
            task.result.parent.mkdir(parents=True, exist_ok=True)
            _error_of(task).unlink(missing_ok=True)
        return token

    def _end(self, folder: Path) -> None:
        """Remove what served the run alone; called once all results are there."""
        (folder / TOKEN).unlink(missing_ok=True)

    @property
    def _advice(self) -> str:
        """What would do against tasks that die."""
        return "cut the work into more of them (engine.tasks)"

    @abstractmethod
    def _perform(self, tasks: Sequence[Task], token: Token, alone: bool) -> Iterator[None]:
        """Try each task once, by `perform`; yield as often as one has ended.

        Args:
            tasks: what is to be done.
            token: to be checked on each machine.
            alone: each in a process in which no other task ran before.
        """


def perform(token: Token, tasks: Sequence[Task]) -> list[None]:
    """Do tasks one after the other, wherever this runs; what one raises lies beside its result.

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
    """Return whether a task has left a result or an error."""
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
    """Return the error as one that can go from process to process; one of the disk's becomes a line."""
    if isinstance(error, OSError):
        return OutsideError(f"{error.filename or 'the working folder'}: {problem_of(error)} ({socket.gethostname()})")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
