"""Training as a job of Slurm: on two nodes as in one process, and preempted as if nothing had happened."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.checkpoint import read_checkpoint
from tests.scripts.resuming import assert_same_training

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "scripts" / "train.py")
# Has Slurm send the job a signal in the middle of a step, and as the data is prepared: each in one of the job's tries.
PREEMPTING = """
import os, subprocess, time
from lightning import Callback
from minillm.corpus import SampleSource
from minillm.signals import signals

def is_now(setting):
    names = os.environ.get(setting, "").split()
    number = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return names[number] if number < len(names) and os.environ["SLURM_PROCID"] == "0" else None

class Preempted(Callback):
    def on_train_batch_start(self, trainer, module, batch, number):
        name = is_now("IN_STEP")
        if name and trainer.global_step == 4 + 40 * (name == "TERM") and signals.pending is None:
            subprocess.run(["scancel", f"--signal={name}", os.environ["SLURM_JOB_ID"]], check=True)
            while signals.pending is None:
                time.sleep(0.01)

class Preempting(SampleSource):
    def articles(self, limit, held):
        for number, article in enumerate(super().articles(limit, held)):
            name = is_now("IN_DATA")
            if name and number == 20:
                subprocess.run(["scancel", f"--signal={name}", os.environ["SLURM_JOB_ID"]], check=True)
                time.sleep(60)
            yield article
"""
# Imported by Python itself as it starts: the signal comes while PyTorch is being imported.
AS_IT_STARTS = """
import os, signal, sys, threading, time

def send():
    while "torch" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGUSR1)

if os.environ.get("AT_START") and "SLURM_RESTART_COUNT" not in os.environ and "SLURM_STEP_ID" in os.environ:
    if any(argument.endswith("train.py") for argument in sys.orig_argv):
        threading.Thread(target=send, daemon=True).start()
"""
SETTINGS = (
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "optimizer.lr=0.003",
    "model.dropout=0",  # each process draws its own
    "data.batch_size=4",
    "evaluation=none",
    "~callbacks.bleu_evaluation",
    "~callbacks.text_samples",
    "++callbacks.user._target_=preempting.Preempted",
)
Submit = Callable[..., Any]


class Job:
    """A job, submitted with the batch file of docs/clusters.md."""

    def __init__(self, environment: dict[str, str], nodes: int, *arguments: str) -> None:
        self.environment = environment
        page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
        [batch] = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)
        kept = [
            line for line in batch.splitlines() if not re.match(r"#SBATCH --(nodes|ntasks|gpus|cpus|time|sig)", line)
        ]
        Path("train.sbatch").write_text("\n".join(kept).replace("python scripts/train.py", f"{sys.executable} {TRAIN}"))
        size = [f"--nodes={nodes}", "--ntasks-per-node=1", "--output=job.txt"]
        self.number = self._call("sbatch", "--parsable", *size, "train.sbatch", *arguments)

    def _call(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    def wait(self) -> dict[str, str]:
        """Wait for the end, without the two minutes that Slurm lets a job wait that is queued again; what is shown."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            shown = dict(re.findall(r"(\w+)=(\S*)", self._call("scontrol", "show", "job", self.number)))
            if shown["JobState"] == "PENDING" and shown["Reason"] == "BeginTime":
                self._call("scontrol", "update", f"JobId={self.number}", "StartTime=now")
            if shown["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
                return shown
            time.sleep(0.3)
        raise AssertionError(Path("job.txt").read_text(encoding="utf-8"))


@pytest.fixture
def environment(slurm: dict[str, str], data_dir: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a job, with the modules above on Python's path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "preempting.py").write_text(PREEMPTING)
    (tmp_path / "code" / "sitecustomize.py").write_text(AS_IT_STARTS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        **slurm,
        "PYTHONPATH": f"{ROOT}:{tmp_path / 'code'}",
        "MINILLM_DATA_DIR": str(data_dir),
        "MASTER_PORT": str(port),
    }


@pytest.fixture
def submit(environment: dict[str, str], tiny: tuple[str, ...]) -> Submit:
    """Submit a training; the command line is the same each time."""
    return lambda nodes, *settings, **names: Job(
        {**environment, **names}, nodes, *tiny, *SETTINGS, "trainer=slurm", "trainer.accelerator=cpu", *settings
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def on_two_nodes(kept: Path, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training on two nodes that nothing stopped."""
    if not kept.exists():
        kept.parent.joinpath("job").mkdir()
        with monkeypatch.context() as there:
            there.chdir(kept.parent / "job")
            ended = submit(2).wait()
            assert ended["JobState"] == "COMPLETED", Path("job.txt").read_text(encoding="utf-8")
            the_run().rename(kept)
    return kept


def the_run() -> Path:
    """Return the folder of the only run; nothing else was left beside it, nor what Lightning leaves."""
    [folder] = Path("outputs/train").iterdir()
    assert not list(folder.rglob("hpc_ckpt*"))
    return folder


def files(run: Path) -> list[str]:
    found = (path.relative_to(run) for path in run.rglob("*") if path.is_file() and not path.name.startswith(".job-"))
    return sorted("events" if "tfevents" in path.name else str(path) for path in found)


def test_two_nodes_learn_what_one_process_learns_from_the_same_batches(
    on_two_nodes: Path, environment: dict[str, str], tiny: tuple[str, ...]
) -> None:
    # In an interactive job of two nodes, but started alone. Its step is the mean of two batches, as that of two
    # processes, which leave out an odd last one.
    whole = ("trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=72")
    alone = ["salloc", "--nodes=2", "--ntasks-per-node=1", sys.executable, TRAIN, *tiny, *SETTINGS, *whole]
    ended = subprocess.run(alone, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "srun" not in ended.stdout + ended.stderr  # of which Lightning would give a hint
    one = the_run()
    expected, actual = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (one, on_two_nodes))
    assert actual["global_step"] == expected["global_step"]
    assert actual["metrics"]["val/loss"] == pytest.approx(expected["metrics"]["val/loss"], rel=1e-5)
    assert files(on_two_nodes) == files(one)


def test_a_preempted_job_goes_on_by_itself_and_ends_as_if_nothing_had_happened(
    on_two_nodes: Path, submit: Submit
) -> None:
    ended = submit(2, IN_STEP="USR1 TERM").wait()
    shown = Path("job.txt").read_text(encoding="utf-8")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), shown
    assert shown.count("stopped: ") <= 2  # fewer where Slurm ended srun before it had passed the line on
    assert "Traceback" not in shown
    assert_same_training(the_run(), on_two_nodes)


def test_a_signal_before_the_training_loses_nothing(submit: Submit) -> None:
    names = {"AT_START": "1", "IN_DATA": "- TERM"}
    data = ("paths.data_dir=data", "data.source._target_=preempting.Preempting")
    ended = submit(1, *data, **names).wait()
    shown = Path("job.txt").read_text(encoding="utf-8")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), shown
    assert (the_run() / "checkpoints" / "best.ckpt").is_file()


def test_what_cannot_work_is_one_line_of_all_processes_and_leaves_nothing(
    slurm: dict[str, str], tiny: tuple[str, ...]
) -> None:
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, TRAIN, *tiny]
    ended = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=200, check=False)
    [line] = [line for line in ended.stderr.splitlines() if not line.startswith("srun: ")]
    assert ended.returncode == 2
    assert line.startswith("error: trainer.strategy=auto: trains in one process, and srun started 2; trainer=ddp")
    assert not list(Path("outputs/train").iterdir())
