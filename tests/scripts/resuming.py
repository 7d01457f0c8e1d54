"""Runs of scripts/train.py in processes of their own, ended at an exact moment, and what of two runs must be equal."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from minillm.checkpoint import read_checkpoint
from tests.reliability.kills import End, Kill, run_script


def run_training(run: Path, *overrides: str, kill: End | None = None) -> int:
    """Run scripts/train.py with its folder; return its exit status, negative for a signal."""
    arguments = (f"hydra.run.dir={run}", f"paths.data_dir={os.environ['MINILLM_DATA_DIR']}", *overrides)
    return run_script("train", run.parent, run.parent / f"{run.name}.txt", arguments, kill).status


def finish(run: Path, *overrides: str) -> Path:
    """Run the training to its end; return the folder."""
    status = run_training(run, *overrides)
    assert status == 0, (status, output(run))
    return run


def kill(run: Path, when: Kill, *overrides: str) -> Path:
    """Run the training until it is killed; return what to resume from."""
    status = run_training(run, *overrides, kill=when)
    assert status == -signal.SIGKILL, (when, status, output(run))
    return run / "checkpoints" / "last.ckpt"


def output(run: Path) -> str:
    """Return the end of what a run wrote to the terminal."""
    return (run.parent / f"{run.name}.txt").read_text(encoding="utf-8")[-1000:]


def assert_same_training(actual: Path, expected: Path, log: bool = True) -> None:
    """Check that two runs ended with the same weights, optimizer, counts and figures, bit for bit.

    Args:
        actual: the folder of one.
        expected: that of the other.
        log: whether both have the figures of the whole training.
    """
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_checkpoint(actual / "checkpoints" / name, expected / "checkpoints" / name)
    if log:
        assert logged(actual) == logged(expected)
        assert tensorboard(actual) == tensorboard(expected)


def assert_same_checkpoint(actual_path: Path, expected_path: Path) -> None:
    """Check that two checkpoints have the same weights, optimizer, counts and figures, bit for bit."""
    actual, expected = read_checkpoint(actual_path), read_checkpoint(expected_path)
    assert (actual["global_step"], actual["epoch"]) == (expected["global_step"], expected["epoch"])
    assert_equal_tensors(actual["state_dict"], expected["state_dict"])
    assert_equal_tensors(actual["optimizer_states"][0]["state"], expected["optimizer_states"][0]["state"])
    assert actual["lr_schedulers"] == expected["lr_schedulers"]
    assert actual["metrics"]["val/loss"] == expected["metrics"]["val/loss"]
    for part in ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict"):
        assert actual["loops"]["fit_loop"][part] == expected["loops"]["fit_loop"][part], part


def logged(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without what the machine decides."""
    machine = {"train/seconds", "train/tokens_per_second", "train/mfu", "memory/rss_mib"}
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in machine} for row in csv.DictReader(file)]


def tensorboard(run: Path) -> dict[str, list[int]]:
    """Return the steps of each figure and text that TensorBoard shows, without what stands beside the curves."""
    steps = {}
    for part in "", "train", "val":
        events = EventAccumulator(str(run / "tensorboard" / part), size_guidance={"tensors": 0}).Reload()
        for name in events.Tags()["tensors"]:
            if not name.startswith(("_hparams", "final/")):
                steps[f"{part}:{name}"] = [event.step for event in events.Tensors(name)]
    return steps


def assert_equal_tensors(actual: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """Check that two trees of dicts hold the same tensors, bit for bit."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_equal_tensors(actual[key], value)
        else:
            assert torch.equal(actual[key], value), key
