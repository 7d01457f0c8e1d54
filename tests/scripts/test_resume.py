"""A run that is killed and resumed ends where the uninterrupted one does, bit for bit."""

import csv
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# Small and in float32; checkpoints every 3 steps, so that a kill falls between them, within an epoch and at its end.
COMMAND = [
    sys.executable,
    str(ROOT / "scripts" / "train.py"),
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=3",
    "data.num_articles=60",
    "data.batch_size=16",
    "data.vocab_size=500",
    "data.max_length=64",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "callbacks.checkpointing.every_n_train_steps=3",
    "callbacks.bleu_evaluation.max_articles=2",
]

CHOICES = {
    "dynamic": ("data.batching=dynamic",),
    "packed": ("data.batching=packed",),
    "modern": (
        "model=minigpt_modern",
        "optimizer=muon",
        "scheduler=wsd",
        "callbacks=[default,ema]",
        "data.batching=packed",
    ),
    "optional": (  # whatever may be switched on between the text and the batches; the curriculum outlasts the kill
        "tokenizer=bpe",
        "tokenizer.digits=true",
        "tokenizer.names=20",
        "data.cleaning.dates=true",
        "data.cleaning.numbers=true",
        "data.augmentation.word_dropout=0.1",
        "data.augmentation.bpe_dropout=0.1",
        "data.augmentation.sentence_reordering=0.5",
        "data.curriculum.by=difficulty",
        "data.curriculum.warmup=0.7",
    ),
}


def command(run: Path, *overrides: str) -> list[str]:
    return [*COMMAND, f"hydra.run.dir={run}", f"paths.data_dir={run.parent / 'data'}", *overrides]


def train(run: Path, *overrides: str) -> Path:
    subprocess.run(command(run, *overrides), check=True, capture_output=True, cwd=run.parent, timeout=300)
    return run / "checkpoints"


def train_until_killed(run: Path, step: int, *overrides: str) -> Path:
    """Kill a run with SIGKILL once its last checkpoint is of this step or a later one."""
    last = run / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(
        command(run, *overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=run.parent
    )
    try:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if last.exists() and read_checkpoint(last)["global_step"] >= step:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    return last


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the checkpoints' folder of a run that nothing interrupted, made once for each set of choices."""
    return functools.cache(lambda choices: train(tmp_path_factory.mktemp(choices) / "whole", *CHOICES[choices]))


# Within the first epoch, at the end of one, within a later one; into another folder, or on in its own.
@pytest.mark.parametrize(
    ("choices", "epochs", "folder"),
    [
        ("dynamic", 0.5, "resumed"),
        ("dynamic", 1.0, "resumed"),
        ("packed", 1.7, "killed"),
        ("modern", 1.4, "resumed"),
        ("optional", 1.3, "resumed"),
    ],
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    uninterrupted: Callable[[str], Path], choices: str, epochs: float, folder: str
) -> None:
    checkpoints = uninterrupted(choices)
    whole = read_checkpoint(checkpoints / "last.ckpt")
    runs = checkpoints.parent.parent
    step = round(epochs * whole["global_step"] / 3)
    last = train_until_killed(runs / f"killed-{epochs}", step, *CHOICES[choices])

    if folder == "killed":  # its own settings, in its own folder
        resume = [*COMMAND[:2], f"resume={last.parents[1]}"]
        subprocess.run(resume, check=True, capture_output=True, cwd=runs, timeout=300)
        resumed = last.parent
    else:
        resumed = train(runs / f"{folder}-{epochs}", *CHOICES[choices], f"ckpt_path={last}")

    for name in ("last.ckpt", "best.ckpt"):
        expected, actual = read_checkpoint(checkpoints / name), read_checkpoint(resumed / name)
        assert (actual["global_step"], actual["epoch"]) == (expected["global_step"], expected["epoch"])
        assert_equal_tensors(actual["state_dict"], expected["state_dict"])
        assert_equal_tensors(actual["optimizer_states"][0]["state"], expected["optimizer_states"][0]["state"])
        assert actual["metrics"]["val/loss"] == expected["metrics"]["val/loss"]
        assert actual["lr_schedulers"] == expected["lr_schedulers"]
        assert ("EMA" in actual["callbacks"]) == (choices == "modern")
        if choices == "modern":  # beside the average, which is in the state_dict, what the average is of
            average, trained = actual["state_dict"].values(), actual["callbacks"]["EMA"]["weights"]
            assert not all(map(torch.equal, average, trained))
            assert all(map(torch.equal, trained, expected["callbacks"]["EMA"]["weights"]))
    names = (resumed.parent / "metrics.csv").read_text().splitlines()[0].split(",")
    assert [name for name in names if name.startswith("lr")] == (["lr", "lr/adamw"] if choices == "modern" else ["lr"])
    if folder == "killed":  # its own folder: what was logged is what the uninterrupted run did, each step once
        assert logged(resumed.parent) == logged(checkpoints.parent)


def logged(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without what the machine decides."""
    machine = {"train/seconds", "train/tokens_per_second", "memory/rss_mib"}
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in machine} for row in csv.DictReader(file)]


def assert_equal_tensors(actual: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_equal_tensors(actual[key], value)
        else:
            assert torch.equal(actual[key], value), key
