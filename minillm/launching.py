"""Where a sweep's jobs run: is the launcher's program there, and how many cores has a job."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from minillm.errors import SettingError
from minillm.parallel import CORES, cores
from minillm.run_folder import RefusedError

SLURM = "submitit_slurm"


class Launching(Callback):
    """Keeps a job to its cores: of a sweep's jobs on one machine each would otherwise take all of them.

    Threads of PyTorch and of the tokenizers, and processes that share the work on a text, become as many. In a Slurm
    job these are the cores that Slurm gave it, also where the cluster binds no job to its own. Of a sweep with
    ``hydra/launcher=joblib`` each job has the machine's cores divided by ``hydra.launcher.n_jobs``; with
    ``submitit_local``, which starts all at once, ``hydra.launcher.cpus_per_task``: one unless set.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep by Slurm where there is none."""
        if config.hydra.runtime.choices.get("hydra/launcher") == SLURM and shutil.which("srun") is None:
            advice = "there is no Slurm here (no srun); joblib and submitit_local run here"
            raise RefusedError(SettingError("hydra/launcher", SLURM, advice))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set it in the process that the job runs in."""
        share = _share(config.hydra.launcher if config.hydra.mode is RunMode.MULTIRUN else {})
        self._before = os.environ.get(CORES)
        if share is None:
            return
        import torch

        os.environ[CORES] = str(share)
        os.environ.setdefault("RAYON_NUM_THREADS", str(share))
        torch.set_num_threads(min(share, torch.get_num_threads()))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let the process's next job count anew."""
        if self._before is None:
            os.environ.pop(CORES, None)
        else:
            os.environ[CORES] = self._before


def _share(launcher: Mapping[str, Any]) -> int | None:
    """Return a job's number of cores; None: all that its process may use."""
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    there = min(cores(), int(given)) if given.isdecimal() else cores()
    if "array_parallelism" not in launcher:  # a job of submitit_slurm's has what Slurm gives it
        if "cpus_per_task" in launcher:
            return max(1, min(launcher["cpus_per_task"] or 1, there))
        if jobs := launcher.get("n_jobs"):
            return max(1, there // max(1, jobs if jobs > 0 else there + 1 + jobs))
    return max(1, there) if given else None
