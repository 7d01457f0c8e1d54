"""Tasks as array jobs of Slurm, submitted by submitit."""

import contextlib
import io
import logging
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from minillm.engines.engine import Engine, Task, Token, ended, needs, perform, unseen
from minillm.errors import OutsideError, SettingError
from minillm.parallel import environment

log = logging.getLogger(__name__)

LOGS, JOBS, STARTED = "slurm", "jobs", "started"
MOST_JOBS = 1000  # per array, Slurm's default limit
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two calls of squeue
ENDING_CALLS = 20  # of squeue, while finished jobs end


@dataclass(frozen=True)
class Slurm(Engine):
    """Runs tasks as the jobs of an array; each job runs several tasks, one after the other.

    Args:
        jobs: the most jobs; best as many as there are free nodes or cores.
        cpus: cores per job.
        memory_gb: memory per job.
        minutes: time limit per job.
        partition: of the jobs; None: Slurm's default.
        options: further options of sbatch by their long names, such as ``account``.
    """

    tasks: int | None = 64
    jobs: int = 32
    cpus: int = 1
    memory_gb: float = 4
    minutes: int = 720
    partition: str | None = None
    options: Mapping[str, str | int] = field(default_factory=dict)
    name: ClassVar[str] = "slurm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is None:
            raise SettingError("tasks", None, "must be a number, such as 64")
        if not 1 <= self.jobs <= MOST_JOBS:
            raise SettingError("jobs", self.jobs, f"must be from 1 to {MOST_JOBS}, such as 32")
        for name in "cpus", "memory_gb", "minutes":
            if getattr(self, name) <= 0:
                raise SettingError(name, getattr(self, name), "must be above 0")
        needs(self.name, "submitit")
        for command in "sbatch", "squeue", "scancel":
            if shutil.which(command) is None:
                advice = f"there is no {command} on the PATH; run it on a machine that submits jobs, or engine=local"
                raise SettingError("engine", self.name, advice)

    def _end(self, folder: Path) -> None:
        super()._end(folder)
        shutil.rmtree(folder / LOGS, ignore_errors=True)

    @property
    def _advice(self) -> str:
        return f"raise engine.memory_gb={self.memory_gb:g} or engine.tasks"

    def _perform(self, tasks: Sequence[Task], token: Token, alone: bool) -> Iterator[None]:
        jobs = min(len(tasks), MOST_JOBS if alone else self.jobs)
        shares = [tasks[number::jobs] for number in range(jobs)]
        started = token.folder / LOGS / STARTED / token.word
        shutil.rmtree(started, ignore_errors=True)
        started.mkdir(parents=True)
        _cancel_left_over(token.folder)
        array = self._submit(shares, token, started)
        waiting, pause = list(tasks), SHORTEST_PAUSE
        try:
            while True:
                # The queue first: a job that is gone has written its results.
                alive = _alive(array)
                done = [task for task in waiting if ended(task)]
                waiting = [task for task in waiting if task not in done]
                yield from [None] * len(done)
                if not waiting or not alive:
                    break
                pause = SHORTEST_PAUSE if done else min(LONGEST_PAUSE, 1.2 * pause)
                time.sleep(pause)
            for _ in range(ENDING_CALLS):  # let finished jobs end by themselves: cancelled ones look like failures
                if not alive:
                    break
                time.sleep(SHORTEST_PAUSE)
                alive = _alive(array)
        finally:
            _cancel(array)
            with contextlib.suppress(OSError):
                (token.folder / JOBS).unlink(missing_ok=True)
        if waiting:
            _check_started(shares, waiting, started, array, token.folder)

    def _submit(self, shares: list[Sequence[Task]], token: Token, started: Path) -> str:
        """Submit the jobs; return the array's number."""
        import submitit

        executor = submitit.SlurmExecutor(folder=token.folder / LOGS, max_num_timeout=0)
        partition = {"partition": self.partition} if self.partition else {}
        executor.update_parameters(
            job_name="minillm",
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=self.cpus,
            mem=f"{math.ceil(self.memory_gb * 1024)}M",
            time=self.minutes,
            array_parallelism=len(shares),
            stderr_to_stdout=True,
            setup=[f"export {name}={shlex.quote(value)}" for name, value in environment().items()],
            additional_parameters=dict(self.options),
            **partition,
        )
        try:
            arguments = ([token] * len(shares), shares, range(len(shares)), [started] * len(shares))
            with contextlib.redirect_stderr(io.StringIO()):  # the error has sbatch's message, too
                submitted = executor.map_array(_work, *arguments)
        except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
            problem = " ".join(str(error).split())
            raise OutsideError(f"engine=slurm: sbatch refused the jobs: {problem[:300]}") from error
        array = str(submitted[0].job_id).partition("_")[0]
        (token.folder / JOBS).write_text(array, encoding="utf-8")
        return array


def _work(token: Token, tasks: Sequence[Task], number: int, started: Path) -> None:
    """Run one job of the array."""
    token.check()
    (started / str(number)).touch()
    perform(token, tasks)


def _alive(array: str) -> bool:
    """Return whether a job of an array is waiting or running.

    Raises:
        OutsideError: Slurm does not answer.
    """
    for attempt in range(5):
        answer = subprocess.run(["squeue", "-h", "-j", array, "-o", "%T"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return bool(answer.stdout.split())
        if "Invalid job id" in answer.stderr:  # it ended a while ago
            return False
        time.sleep(2**attempt)
    raise OutsideError(f"engine=slurm: squeue does not answer: {' '.join(answer.stderr.split())[:200]}")


def _cancel(array: str) -> None:
    subprocess.run(["scancel", array], capture_output=True, check=False)


def _cancel_left_over(folder: Path) -> None:
    """Cancel the jobs of an earlier run that was killed: this run does the rest of their work."""
    with contextlib.suppress(OSError):
        _cancel((folder / JOBS).read_text(encoding="utf-8").strip())


def _check_started(shares: list[Sequence[Task]], waiting: list[Task], started: Path, array: str, folder: Path) -> None:
    """Check that each unfinished job saw the working folder.

    Raises:
        OutsideError: one did not.
    """
    for number, share in enumerate(shares):
        if any(task in waiting for task in share) and not (started / str(number)).exists():
            job = f"{array}_{number}"
            answer = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
            nodes = [word.partition("=")[2] for word in answer.stdout.split() if word.startswith("NodeList=")]
            raise unseen(folder, f"of Slurm's job {job}" + (f" ({nodes[0]})" if nodes and nodes[0] else ""))
