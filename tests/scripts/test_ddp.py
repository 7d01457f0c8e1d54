"""Several processes: the same figures as one, and each file once."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# A learning rate of nothing: the weights stay what the seed made them, so one process and two have the same network.
COMMAND = [
    str(ROOT / "scripts" / "train.py"),
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1",
    "optimizer.lr=1e-12",
    "data.num_articles=60",
    "data.batch_size=8",
    "data.vocab_size=500",
    "data.max_length=64",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "callbacks.bleu_evaluation.max_articles=4",
]


def figures_and_files(
    run: Path, *overrides: str, by: tuple[str, ...] = (sys.executable,), times: int = 1
) -> tuple[dict[str, float], list[str]]:
    command = [*by, *COMMAND, f"hydra.run.dir={run}", f"paths.data_dir={run.parent / 'data'}", *overrides]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=run.parent, text=True) for _ in range(times)]
    for process in started:
        _, shown = process.communicate(timeout=300)
        assert process.returncode == 0, shown
    files = sorted(
        "tensorboard/events" if "tfevents" in path.name else str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file()
    )
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["metrics"], files


def test_two_processes_log_the_figures_of_one_and_write_each_file_once(tmp_path: Path) -> None:
    one, files_of_one = figures_and_files(tmp_path / "one")
    two, files_of_two = figures_and_files(tmp_path / "two", "trainer=ddp", "trainer.devices=2")
    names = [name for name in one if name.startswith("val/")]
    assert {"val/loss", "val/accuracy", "val/bits_per_byte", "val/bleu", "val/prediction_bias"} <= set(names)
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    assert files_of_two == files_of_one
    evaluated, alike = (
        json.loads((tmp_path / run / "evaluation/evaluation.json").read_text()) for run in ("one", "two")
    )
    for split, figures in evaluated["splits"].items():
        for figure, ends in figures.pop("ci95").items():
            assert alike["splits"][split]["ci95"][figure] == pytest.approx(ends, rel=1e-5), figure
        del alike["splits"][split]["ci95"]
        assert alike["splits"][split] == pytest.approx(figures, rel=1e-5)
    for name in ("kl_divergence", "total_variation", "calibration_error", "prediction_bias"):
        assert alike["bias"][name] == pytest.approx(evaluated["bias"][name], rel=1e-4), name
    for name, check in evaluated["audit"].items():
        assert alike["audit"][name]["verdict"] == check["verdict"], name


def test_two_machines_of_torchrun_learn_what_one_process_learns_from_the_same_batches(tmp_path: Path) -> None:
    learning = ("optimizer.lr=0.003", "model.dropout=0", "evaluation=none", "~callbacks.text_samples")
    # The mean of two batches, as of two processes, which leave out an odd last one.
    whole = ("trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=20")
    one, files_of_one = figures_and_files(tmp_path / "one", *learning, *whole)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--rdzv-backend=c10d", where)
    two, files_of_two = figures_and_files(
        tmp_path / "two", *learning, "trainer=ddp", "trainer.limit_train_batches=10", by=torchrun, times=2
    )
    assert one["val/loss"] < 6  # of log 500 = 6.2 at first
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-5)
    assert files_of_two == files_of_one
