"""Runs of scripts/train.py in processes of their own, killed at an exact moment, and what of two runs must be equal."""

import contextlib
import csv
import functools
import multiprocessing
import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from minillm.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# Each process is a copy of one that has imported all this already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lightning.pytorch", "hydra", "minillm.callbacks", "minillm.evaluation.evaluation"])


class Kill(NamedTuple):
    """When a run gets SIGKILL: in a callback's hook, before the other callbacks' or after them."""

    hook: str
    step: int
    """So many optimizer steps must be complete."""
    after: bool = False
    times: int = 1
    """At the so-manieth call of the hook with so many steps."""


def run_training(run: Path, *overrides: str, kill: Kill | None = None) -> int:
    """Run scripts/train.py with its folder; return its exit status, negative for a signal."""
    arguments = (f"hydra.run.dir={run}", f"paths.data_dir={os.environ['MINILLM_DATA_DIR']}", *overrides)
    process = PROCESSES.Process(target=_train, args=(run.parent, arguments, kill))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


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


def _train(folder: Path, arguments: tuple[str, ...], kill: Kill | None) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    if kill:
        import minillm.training

        build = minillm.training.build_trainer

        @functools.wraps(build)
        def build_killed(*args: Any, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
            return build(*args, callbacks=[_killer(kill), *callbacks, _killer(kill, Checkpoint)], **options)

        minillm.training.build_trainer = build_killed  # type: ignore[assignment]
    sys.argv = [str(ROOT / "scripts" / "train.py"), *arguments]
    name = next(argument for argument in arguments if argument.startswith("hydra.run.dir=")).split("/")[-1]
    with (
        Path(f"{name}.txt").open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        runpy.run_path(sys.argv[0], run_name="__main__")


def _killer(kill: Kill, base: type[L.Callback] = L.Callback) -> L.Callback:
    """Return the callback that kills; Lightning lets those that keep checkpoints come last."""
    if kill.after != (base is Checkpoint):
        return base()
    calls = Counter[int]()

    def hook(self: L.Callback, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        calls[trainer.global_step] += 1
        if trainer.global_step >= kill.step and calls[trainer.global_step] == kill.times:
            os.kill(os.getpid(), signal.SIGKILL)

    return type("Killer", (base,), {kill.hook: hook})()


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
    machine = {"train/seconds", "train/tokens_per_second", "memory/rss_mib"}
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in machine} for row in csv.DictReader(file)]


def tensorboard(run: Path) -> dict[str, list[int]]:
    """Return the steps of each figure and text that TensorBoard shows, without what stands beside the curves."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    names = [name for name in events.Tags()["tensors"] if not name.startswith(("custom_scalars", "_hparams", "final/"))]
    return {name: [event.step for event in events.Tensors(name)] for name in names}


def assert_equal_tensors(actual: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """Check that two trees of dicts hold the same tensors, bit for bit."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_equal_tensors(actual[key], value)
        else:
            assert torch.equal(actual[key], value), key
