"""A Hydra callback for sweeps: checks the launcher, and limits the cores of each job."""

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
    """Limits a job to its share of cores; otherwise each of a sweep's jobs on one machine would use all.

    It sets the numbers of PyTorch's threads, tokenizer threads and text-processing processes. In a Slurm job the share
    is the cores that Slurm allocated, even if the cluster does not bind jobs to cores. With ``hydra/launcher=joblib``
    it is the machine's cores divided by ``hydra.launcher.n_jobs``; with ``submitit_local``, which starts all jobs at
    once, it is ``hydra.launcher.cpus_per_task``, by default 1.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep by Slurm on a machine without Slurm."""
        if config.hydra.runtime.choices.get("hydra/launcher") == SLURM and shutil.which("srun") is None:
            advice = "there is no Slurm here (no srun); joblib and submitit_local run here"
            raise RefusedError(SettingError("hydra/launcher", SLURM, advice))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set the limits in the job's process."""
        share = _share(config.hydra.launcher if config.hydra.mode is RunMode.MULTIRUN else {})
        self._before = os.environ.get(CORES)
        if share is None:
            return
        import torch

        os.environ[CORES] = str(share)
        os.environ.setdefault("RAYON_NUM_THREADS", str(share))
        torch.set_num_threads(min(share, torch.get_num_threads()))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Restore the environment for the process's next job."""
        if self._before is None:
            os.environ.pop(CORES, None)
        else:
            os.environ[CORES] = self._before


def _share(launcher: Mapping[str, Any]) -> int | None:
    """Return a job's number of cores; None: all cores that its process may use."""
    allocated = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    available = min(cores(), int(allocated)) if allocated.isdecimal() else cores()
    if "array_parallelism" not in launcher:  # submitit_slurm, whose jobs have the cores that Slurm allocates
        if "cpus_per_task" in launcher:
            return max(1, min(launcher["cpus_per_task"] or 1, available))
        if jobs := launcher.get("n_jobs"):
            return max(1, available // max(1, jobs if jobs > 0 else available + 1 + jobs))
    return max(1, available) if allocated else None
