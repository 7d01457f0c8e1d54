"""The folder of a run: created for it, and locked while it runs."""

import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from minillm.command import spelled
from minillm.errors import OutsideError, SettingError
from minillm.files import remove_left_overs
from minillm.launch import agreed, end_without_first, is_further_process, launched
from minillm.signals import NOTHING_YET, signals

LOCK = ".lock"
JOB = ".job-"  # prefix of the file that names the folder's Slurm job
VISIBLE_WITHIN = 60.0  # seconds until another machine sees a new folder on a shared disk
# Content of a folder in which a run has not trained yet.
INITIAL_FILES = (".hydra", LOCK, "multirun.yaml", "tensorboard")
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class RefusedError(BaseException):
    """Carries an error out of a Hydra callback, where Hydra only warns of an Exception and continues."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@dataclass
class _Owned:
    """A folder that this process uses."""

    folder: Path
    made: bool  # by this process
    lock: FileLock | None  # None: other processes may use it, too

    def release(self) -> None:
        """Unlock it."""
        if self.lock is not None:
            self.lock.release()


_owned: list[_Owned] = []


class RunFolder(Callback):
    """Creates and locks the folder of a run or sweep before Hydra writes anything; refuses a folder in use.

    A folder named by the time gets a number if another run started in the same second. The system releases the lock
    when the process ends, however it ends. In a sweep, each run's folder is locked in that run's process; the sweep's
    own folder is not locked if several workers can share it, as in a search.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a run."""
        _own(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a sweep."""
        _own(config, "sweep")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of one of a sweep's runs."""
        if config.hydra.mode is RunMode.MULTIRUN and not is_further_process():
            folder = Path(config.hydra.runtime.output_dir)
            try:
                _owned.append(_Owned(folder, False, _locked(folder, "hydra.sweep.dir")))
            except Exception as error:
                raise RefusedError(error) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Release the folder of one of a sweep's runs; this process may continue with another run."""
        folder = Path(config.hydra.runtime.output_dir)
        for owned in [owned for owned in _owned if owned.folder == folder]:
            _owned.remove(owned)
            owned.release()


def release(discard: bool) -> None:
    """Release the folders that this process owns.

    Args:
        discard: whether to remove a folder that was created for this run and in which nothing was done.
    """
    while _owned:
        owned = _owned.pop()
        files = [path.relative_to(owned.folder) for path in owned.folder.rglob("*") if path.is_file()]
        if discard and owned.made and all(map(_is_initial, files)):
            _close_logs(owned.folder)
            shutil.rmtree(owned.folder, ignore_errors=True)
        owned.release()


def _close_logs(folder: Path) -> None:
    """Close the log files in a folder that will be removed."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder.resolve()):
            root.removeHandler(handler)
            handler.close()


def _is_initial(file: Path) -> bool:
    return file.parts[0] in INITIAL_FILES or file.suffix == ".log" or file.name.startswith(JOB)


def _own(config: DictConfig, kind: str) -> None:
    process = launched()
    try:
        if kind == "sweep":
            if process is not None and process.world_size > 1:
                advice = f"several processes of {process.by} share one run"
                raise SettingError("--multirun", "true", f"{advice}; hydra/launcher=submitit_slurm makes jobs of them")
            _own_first(config, kind)
            return
        # All processes use the first one's folder, even if they see another time or another state of the disk.
        place = agreed("run", lambda: json.dumps(_own_first(config, kind)))
        if is_further_process() and place:
            _follow(config, **json.loads(place))
    except Exception as error:
        raise RefusedError(error) from error


def _follow(config: DictConfig, folder: str, resume: str | None) -> None:
    """Use the folder that the first process owns, without writing to it."""
    agreed("corpus")  # before this point the folder may be removed again, and Hydra would create it again
    deadline = time.monotonic() + VISIBLE_WITHIN
    while not Path(folder).is_dir():
        end_without_first()  # the run was refused, and its folder removed
        if time.monotonic() > deadline:
            advice = "cannot be seen from this machine; a run's folder and data must be on a disk that all nodes share"
            raise OutsideError(f"{folder} ({platform.node()}): {advice}")
        time.sleep(1)
    with read_write(config.hydra):
        config.hydra.run.dir, config.hydra.output_subdir = folder, None
    if resume is not None:
        config.resume = resume
    logging.disable(logging.WARNING)  # otherwise each process would log the same


def _own_first(config: DictConfig, kind: str) -> dict[str, str | None]:
    """Own the folder; return its path, and that of the run to resume."""
    node = config.hydra[kind]
    key = f"hydra.{kind}.dir"
    job = os.environ.get("SLURM_JOB_ID") if kind == "run" and "resume" in config and config.resume is None else None
    note = None if job is None else _note(config, job)
    known = None if note is None else _noted(config, note)
    if known is not None:
        folder, made = known, False
        with read_write(config.hydra):
            node.dir = str(folder)
        if any(folder.glob("checkpoints/*.ckpt")):
            config.resume = str(folder)
            with read_write(config.hydra):
                config.hydra.output_subdir = None  # Hydra's record of the run is kept
    elif "${now:" in OmegaConf.to_yaml(node):
        folder, made = _new(Path(str(node.dir))), True
        with read_write(config.hydra):
            node.dir = str(folder)
            # Hydra composes the config of a sweep's runs again from the overrides.
            config.hydra.overrides.hydra.append(f"{key}='{folder}'")
    else:
        folder = Path(str(node.dir))
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    shared = kind == "sweep" and config.hydra.sweeper._target_ != BASIC_SWEEPER
    _owned.append(_Owned(folder, made, None if shared else _locked(folder, key)))
    for place in folder, *filter(Path.is_dir, folder.iterdir()):
        remove_left_overs(place)
    if kind == "sweep":
        signals.how, signals.requeues = partial(_how_to_go_on, folder), False
    _check_unused(config, kind, folder)
    if note is not None and known is None:
        (folder / note).touch()
    return {"folder": str(folder.resolve()), "resume": config.get("resume")}


def _note(config: DictConfig, job: str) -> str:
    """Return the name of the file by which a requeued Slurm job finds its run's folder.

    It has the job, its step and a hash of the command line, which are the same each time the job runs.
    """
    words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    command = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return f"{JOB}{job}.{os.environ.get('SLURM_STEP_ID', 'batch')}-{command}"


def _noted(config: DictConfig, note: str) -> Path | None:
    """Return the run's folder if Slurm has requeued this job and the folder exists."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return None
    node = config.hydra.run
    written = Path(str(OmegaConf.to_container(node, resolve=False)["dir"]))  # type: ignore[index, call-overload]
    above, below = Path(str(node.dir)), Path(note)
    while "${now:" in str(written):  # the time was different when the job first ran
        written, above, below = written.parent, above.parent, "*" / below
    return next((found.parent for found in above.glob(str(below))), None)


def _locked(folder: Path, key: str) -> FileLock:
    """Lock a folder for this process; ``key`` is its setting."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingError(key, folder, "another run uses it; choose another folder") from error
    return lock


def _new(folder: Path) -> Path:
    """Create a new folder; if it exists, one with a number after its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


def _how_to_go_on(sweep: Path) -> str:
    """Return how to resume a run of a stopped sweep, which cannot resume as a whole."""
    if not any(sweep.glob("*/checkpoints/last.ckpt")):
        return NOTHING_YET
    return f"{sweep} is kept; to go on with one of its runs: {spelled('train')} resume={shlex.quote(str(sweep))}/..."


def _check_unused(config: DictConfig, kind: str, folder: Path) -> None:
    """Refuse to overwrite the checkpoints of another training."""
    if "ckpt_path" not in config:
        return
    if kind == "sweep":
        # A search can continue in its own folder.
        if config.hydra.sweeper._target_ == BASIC_SWEEPER and any(folder.glob("*/checkpoints/*.ckpt")):
            raise SettingError("hydra.sweep.dir", folder, "contains the runs of another sweep; choose another folder")
        return
    check_unused(folder, None if config.ckpt_path is None else str(config.ckpt_path), config.get("resume") is not None)


def check_unused(folder: Path, ckpt_path: str | None, resumes: bool) -> None:
    """Check that a run does not overwrite the checkpoints of another one.

    Args:
        folder: the run's folder.
        ckpt_path: the checkpoint that it resumes from.
        resumes: whether it resumes the folder's own run.

    Raises:
        SettingError: the folder contains checkpoints, and the run does not resume from one of them.
    """
    checkpoints = folder / "checkpoints"
    own = resumes or (ckpt_path is not None and Path(ckpt_path).resolve().parent == checkpoints.resolve())
    if not own and any(checkpoints.glob("*.ckpt")):
        advice = f"has the checkpoints of another run; resume={folder} resumes it, a new run needs a new folder"
        raise SettingError("hydra.run.dir", folder, advice)
