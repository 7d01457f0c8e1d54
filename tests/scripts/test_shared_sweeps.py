"""Sweeps whose jobs run in processes of their own, on one machine and on several: cores, workers, killed processes."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from minillm import parallel
from minillm.checkpoint import read_checkpoint
from minillm.study import open_storage

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUICK = (
    "evaluation=none",
    "trainer.limit_train_batches=4",
    "~callbacks.bleu_evaluation",
    "~callbacks.text_samples",
    "~logger.tensorboard",
    "paths.data_dir=data",
    "+callbacks.user._target_=observer.Observer",
)
SEARCH = (
    *QUICK,
    "hydra/sweeper=optuna",
    "hydra.sweep.dir=sweep",
    "trainer.max_epochs=2",
    "optimizer.lr=tag(log,interval(1e-5,1e-2))",
)
# Writes down what a job sees, and kills the process of run 0 once, in its second epoch, where a file asks for it.
OBSERVER = """\
import os, signal
from pathlib import Path
import torch
from lightning import Callback
from minillm.parallel import cores

class Observer(Callback):
    def on_train_start(self, trainer, module):
        run = Path(trainer.default_root_dir)
        (run / "cores.txt").write_text(f"{cores()} {torch.get_num_threads()} {os.environ.get('RAYON_NUM_THREADS')}")
        (run / "node.txt").write_text(os.environ.get("SLURMD_NODENAME", ""))

    def on_train_batch_start(self, trainer, *_):
        kill = Path("kill")
        if trainer.global_step == 6 and Path(trainer.default_root_dir).name == "0" and kill.is_file():
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let jobs, whatever process they run in, find the observer."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "observer.py").write_text(OBSERVER)
    monkeypatch.syspath_prepend(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("observer", None)


@pytest.fixture
def sweep(run_script: Run, tiny: tuple[str, ...], observed: None) -> Run:
    """Run scripts/train.py as a sweep."""
    return partial(run_script, "train", "--multirun", *tiny)


def trials() -> list[FrozenTrial]:
    return optuna.load_study(study_name=None, storage=open_storage("sweep/study.journal")).trials


def weights(run: str) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(f"{run}/checkpoints/last.ckpt")["state_dict"])


def assert_same(one: str, other: str) -> None:
    assert all(torch.equal(weights(one)[name], weights(other)[name]) for name in weights(other))


def test_a_trial_whose_process_is_killed_runs_again_and_jobs_share_the_cores(sweep: Run) -> None:
    Path("kill").touch()
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=1")
    ended = sweep(*SEARCH, *joblib, "hydra/sweeper/pruner=none")
    assert ended.status == 0, ended.stderr
    assert [(trial.state, trial.user_attrs["tries"]) for trial in trials()] == [(TrialState.COMPLETE, 2)]
    assert read_checkpoint("sweep/0/checkpoints/last.ckpt")["global_step"] == 8
    share = max(1, parallel.cores() // 2)
    assert Path("sweep/0/cores.txt").read_text() == f"{share} 1 {share}"  # tests have one thread
    assert not list(Path("sweep").glob(".worker-*"))


@pytest.mark.long
def test_a_trial_whose_process_is_killed_each_time_fails_in_the_end(sweep: Run, tmp_path: Path) -> None:
    code = (tmp_path / "code" / "observer.py").read_text()
    (tmp_path / "code" / "observer.py").write_text(code.replace("kill.unlink()", "pass"))
    Path("kill").touch()
    ended = sweep(*SEARCH, "hydra/launcher=submitit_local", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=2")
    assert ended.status == 1
    assert ended.stderr.splitlines()[-1] == "error: sweep: no trial was completed (0 complete, 0 pruned, 1 failed)"
    assert [(trial.state, trial.user_attrs["tries"]) for trial in trials()] == [(TrialState.FAIL, 3)]
    assert Path("sweep/0/cores.txt").read_text() == "1 1 1"


def test_a_journal_that_a_crash_cut_short_is_read_up_to_there(sweep: Run) -> None:
    assert sweep(*SEARCH, "hydra.sweeper.n_trials=1").status == 0
    journal = Path("sweep/study.journal")
    with journal.open("ab") as file:
        file.write(b'{"op_code":')
    ended = sweep(*SEARCH, "hydra.sweeper.n_trials=2")
    assert ended.status == 0, ended.stderr
    assert len(trials()) == 2


def test_slurm_where_there_is_none_is_one_line(sweep: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = sweep("hydra/launcher=submitit_slurm", "seed=1,2", "hydra.sweep.dir=sweep")
    assert ended.status == 2
    assert ended.stderr == (
        "error: hydra/launcher=submitit_slurm: there is no Slurm here (no srun); joblib and submitit_local run here\n"
    )
    assert not Path("sweep").exists()


@pytest.mark.slurm
def test_workers_on_two_nodes_share_one_study_and_take_over_a_killed_ones_trial(
    slurm: dict[str, str], tiny: tuple[str, ...], observed: None, sweep: Run
) -> None:
    Path("kill").touch()
    settings = (*tiny, *SEARCH, "hydra/sweeper/pruner=none", "hydra.sweeper.n_trials=4")
    command = shlex.join([sys.executable, str(ROOT / "scripts/train.py"), "-m", *settings])
    workers = ["sbatch", "--wait", "--array=0-1", "--cpus-per-task=2", "--output=worker-%a.log", "--wrap", command]
    environment = {**slurm, "PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(workers, env=environment, capture_output=True, text=True, check=False)
    logs = "".join(log.read_text() for log in Path().glob("worker-*.log"))
    assert ended.returncode != 0, logs  # the killed one's
    assert {trial.state for trial in trials()} == {TrialState.COMPLETE}, logs
    assert [trial.user_attrs.get("tries", 1) for trial in trials()] == [2, 1, 1, 1], logs
    assert "trial 0: runs again, its process was killed" in logs
    assert {Path(f"sweep/{n}/node.txt").read_text() for n in range(4)} <= {"n1", "n2"}
    assert Path("sweep/1/cores.txt").read_text() == f"{min(2, parallel.cores())} 1 {min(2, parallel.cores())}"
    # As if nothing had happened.
    lr = trials()[0].params["optimizer.lr"]
    alone = (*(setting for setting in settings if "lr=" not in setting), f"optimizer.lr=choice({lr})")
    assert sweep(*alone, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=alone").status == 0
    assert_same("sweep/0", "alone/0")


@pytest.mark.slurm
def test_a_sweep_as_slurm_jobs_ends_as_it_would_in_one_process(
    slurm: dict[str, str], sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    ended = sweep(*QUICK, "seed=1,2", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=jobs")
    assert ended.status == 0, ended.stderr
    assert Path("jobs/0/cores.txt").read_text() == "1 1 1"  # what Slurm gives unless asked for more
    assert sweep(*QUICK, "seed=1,2", "hydra.sweep.dir=alone").status == 0
    assert_same("jobs/0", "alone/0")
    assert_same("jobs/1", "alone/1")
    ended = sweep(*QUICK, "seed=1", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=none")
    assert ended.status != 0
    assert ended.stderr.splitlines()[-1].startswith("error: hydra/launcher: sbatch: error: ")
