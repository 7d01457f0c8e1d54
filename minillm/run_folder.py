"""A run's folder is its own: made for it alone, and locked while it works."""

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
JOB = ".job-"  # a job of Slurm whose training the folder has
VISIBLE = 60.0  # seconds after which a folder is seen from another machine, if ever
# What is in a folder before a run has trained anything.
AT_FIRST = (".hydra", LOCK, "multirun.yaml", "tensorboard")
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class RefusedError(BaseException):
    """Carries an error out of a Hydra callback: of an Exception there Hydra would make a warning, and go on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@dataclass
class _Owned:
    """A folder that this process works in."""

    folder: Path
    made: bool
    lock: FileLock | None  # None: others may work in it too

    def release(self) -> None:
        """Let others have it."""
        if self.lock is not None:
            self.lock.release()


_owned: list[_Owned] = []


class RunFolder(Callback):
    """Before Hydra writes anything: makes the run's folder, or the sweep's, and locks it; refuses one that is in use.

    A folder that is named by the time gets a number where another run began in the same second. The system releases the
    lock when the process ends, however it ends. Of a sweep each run's folder is locked too, in the process that it runs
    in; the sweep's own is not where several workers may share it, as in a search.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a run."""
        _own(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a sweep, in which each run has one of its own."""
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
        """Let go of the folder of one of a sweep's runs: this process may go on with another one."""
        folder = Path(config.hydra.runtime.output_dir)
        for owned in [owned for owned in _owned if owned.folder == folder]:
            _owned.remove(owned)
            owned.release()


def release(discard: bool) -> None:
    """Let go of what this process owns.

    Args:
        discard: whether to remove the folder, if it was made for this run and nothing was done in it.
    """
    while _owned:
        owned = _owned.pop()
        files = [path.relative_to(owned.folder) for path in owned.folder.rglob("*") if path.is_file()]
        if discard and owned.made and all(map(_is_at_first, files)):
            _close_logs(owned.folder)
            shutil.rmtree(owned.folder, ignore_errors=True)
        owned.release()


def _close_logs(folder: Path) -> None:
    """Let nothing more be logged into a folder that goes."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder.resolve()):
            root.removeHandler(handler)
            handler.close()


def _is_at_first(file: Path) -> bool:
    return file.parts[0] in AT_FIRST or file.suffix == ".log" or file.name.startswith(JOB)


def _own(config: DictConfig, kind: str) -> None:
    process = launched()
    try:
        if kind == "sweep":
            if process is not None and process.world_size > 1:
                advice = f"several processes of {process.by} share one run"
                raise SettingError("--multirun", "true", f"{advice}; hydra/launcher=submitit_slurm makes jobs of them")
            _own_first(config, kind)
            return
        # Whatever the time is in another process, and whatever it finds on the disk: all do what the first one does.
        place = agreed("run", lambda: json.dumps(_own_first(config, kind)))
        if is_further_process() and place:
            _follow(config, **json.loads(place))
    except Exception as error:
        raise RefusedError(error) from error


def _follow(config: DictConfig, folder: str, resume: str | None) -> None:
    """Work in the folder that the first process owns, and write nothing there."""
    agreed("corpus")  # until then the folder may go again, and Hydra would make it anew
    deadline = time.monotonic() + VISIBLE
    while not Path(folder).is_dir():
        end_without_first()  # it was refused, and its folder is gone
        if time.monotonic() > deadline:
            advice = "cannot be seen from this machine; a run's folder and data must be on a disk that all nodes share"
            raise OutsideError(f"{folder} ({platform.node()}): {advice}")
        time.sleep(1)
    with read_write(config.hydra):
        config.hydra.run.dir, config.hydra.output_subdir = folder, None
    if resume is not None:
        config.resume = resume
    logging.disable(logging.WARNING)  # it would be in the log as often as there are processes


def _own_first(config: DictConfig, kind: str) -> dict[str, str | None]:
    """Own the folder; return where it is, and the run that the training goes on with."""
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
            # A sweep's runs are composed anew, of what was overridden.
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
    """Return the name of the file in a run's folder by which its job finds it when Slurm runs the job again.

    It names the job, its step and the command line: what all tries have in common.
    """
    words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    command = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return f"{JOB}{job}.{os.environ.get('SLURM_STEP_ID', 'batch')}-{command}"


def _noted(config: DictConfig, note: str) -> Path | None:
    """Return the folder of the job's training, where Slurm runs the job again and the folder is there."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return None
    node = config.hydra.run
    written = Path(str(OmegaConf.to_container(node, resolve=False)["dir"]))  # type: ignore[index, call-overload]
    above, below = Path(str(node.dir)), Path(note)
    while "${now:" in str(written):  # the first try's time was another
        written, above, below = written.parent, above.parent, "*" / below
    return next((found.parent for found in above.glob(str(below))), None)


def _locked(folder: Path, key: str) -> FileLock:
    """Lock a folder for this process; ``key`` is the setting that chooses it."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingError(key, folder, "another run is at work there; choose another folder") from error
    return lock


def _new(folder: Path) -> Path:
    """Make a folder that is not there yet, with a number behind its name where it is."""
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
    """Return what to do where a sweep was stopped that knows no way to go on by itself."""
    if not any(sweep.glob("*/checkpoints/last.ckpt")):
        return NOTHING_YET
    return f"{sweep} is kept; to go on with one of its runs: {spelled('train')} resume={shlex.quote(str(sweep))}/..."


def _check_unused(config: DictConfig, kind: str, folder: Path) -> None:
    """Refuse to train anew where the checkpoints of another training would be overwritten."""
    if "ckpt_path" not in config:
        return
    if kind == "sweep":
        # A search goes on in its own folder.
        if config.hydra.sweeper._target_ == BASIC_SWEEPER and any(folder.glob("*/checkpoints/*.ckpt")):
            raise SettingError("hydra.sweep.dir", folder, "holds the runs of another sweep; choose another folder")
        return
    check_unused(folder, None if config.ckpt_path is None else str(config.ckpt_path), config.get("resume") is not None)


def check_unused(folder: Path, ckpt_path: str | None, resumes: bool) -> None:
    """Check that a run does not overwrite the checkpoints of another one.

    Args:
        folder: the run's.
        ckpt_path: the checkpoint that it goes on from.
        resumes: whether it goes on with the folder's own run.

    Raises:
        SettingError: the folder holds checkpoints, and the run goes on from none of them.
    """
    checkpoints = folder / "checkpoints"
    own = resumes or (ckpt_path is not None and Path(ckpt_path).resolve().parent == checkpoints.resolve())
    if not own and any(checkpoints.glob("*.ckpt")):
        advice = f"holds the checkpoints of another run; resume={folder} goes on with it, a new run needs a new folder"
        raise SettingError("hydra.run.dir", folder, advice)
