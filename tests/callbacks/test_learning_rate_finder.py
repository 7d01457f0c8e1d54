import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.callbacks.learning_rate_finder import steepest
from minillm.checkpoint import read_checkpoint

Run = Callable[..., Any]
FINDER = ("callbacks=[default,learning_rate_finder]", "callbacks.learning_rate_finder.num_training_steps=40")


@pytest.fixture
def quick(train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Any:
        return train("evaluation=none", "trainer.max_epochs=2", "data.batching=packed", *arguments)

    return run


def test_training_with_the_rate_found_is_that_with_the_same_rate_set(quick: Run) -> None:
    accumulated = "trainer.accumulate_grad_batches=2"
    ended = quick(*FINDER, accumulated, "hydra.run.dir=found")
    assert ended.status == 0, ended.stderr
    found = json.loads(Path("found/learning_rate.json").read_text())
    rate = found["found"]
    assert 1e-4 < rate < 0.1  # tenfold to either side of what suits the network
    assert 4 < found["loss"][0] < 6.5  # nats per token of an untrained one, not the half that a batch has in a step
    assert "<svg" in Path("found/learning_rate.svg").read_text()
    assert f"learning rate found: {rate:.3g}" in Path("found/train.log").read_text()
    assert not [path for path in Path().rglob("*") if path.name.startswith(".lr_find")]

    assert quick(accumulated, f"optimizer.lr={rate!r}", "hydra.run.dir=set").status == 0
    actual, expected = (read_checkpoint(f"{run}/checkpoints/last.ckpt") for run in ("found", "set"))
    for name, weight in expected["state_dict"].items():
        assert torch.equal(actual["state_dict"][name], weight), name
    assert actual["lr_schedulers"] == expected["lr_schedulers"]
    assert actual["config"]["optimizer"] == expected["config"]["optimizer"]
    assert actual["config"]["optimizer"]["lr"] == rate

    # Resumed, it keeps its rate and looks for none.
    last = Path("found/checkpoints/last.ckpt")
    resumed = quick(*FINDER, accumulated, "trainer.max_epochs=3", f"ckpt_path={last}", "hydra.run.dir=resumed")
    assert resumed.status == 0, resumed.stderr
    assert not Path("resumed/learning_rate.json").exists()
    assert read_checkpoint("resumed/checkpoints/last.ckpt")["lr_schedulers"][0]["base_lrs"] == [rate]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("min_lr=0", "callbacks.learning_rate_finder.min_lr=0: must be over 0 and under max_lr=1.0"),
        ("min_lr=2", "callbacks.learning_rate_finder.min_lr=2: must be over 0 and under max_lr=1.0"),
        ("max_lr=inf", "callbacks.learning_rate_finder.min_lr=1e-05: must be over 0 and under max_lr=inf, a finite"),
        ("early_stop_threshold=0", "callbacks.learning_rate_finder.early_stop_threshold=0: must be over 1, such as 4"),
        ("num_training_steps=3", "callbacks.learning_rate_finder.num_training_steps=3: must be at least 20"),
        ("min_lr=many", "callbacks.learning_rate_finder.min_lr=many: must be float"),
    ],
)
def test_bounds_that_cannot_be_are_refused(quick: Run, setting: str, says: str) -> None:
    ended = quick(*FINDER, f"callbacks.learning_rate_finder.{setting}")
    assert (ended.status, len(ended.stderr.splitlines())) == (2, 1)
    assert ended.stderr.startswith(f"error: {says}")


def test_the_steepest_place_is_over_the_logarithm_of_the_rate_and_of_finite_losses() -> None:
    rates = [10.0**exponent for exponent in range(-6, 1)]
    # Over the rate itself the tiny fall at 1e-5 would be the steepest.
    assert steepest(rates, [9.0, 8.9, 8.9, 7.0, 5.0, 4.5, float("nan")]) == 3
    assert steepest(rates, [float("inf"), 9.0, 9.0, 7.0, 5.0, 9.0, 99.0]) in (3, 4)
    assert steepest(rates, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) is None
    assert steepest(rates[:1], [1.0]) is None
