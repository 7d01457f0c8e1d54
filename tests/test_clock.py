import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(run: str) -> list[dict[str, str]]:
    with (Path(run) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rates(run: str) -> list[float]:
    return [float(row["lr"]) for row in rows(run) if row.get("lr")]


ENDLESS = ("trainer.max_epochs=-1", "trainer.log_every_n_steps=1", "evaluation=none", "scheduler.warmup=0")


def test_a_number_of_tokens_ends_the_training_there_with_the_schedule_at_its_end_and_counts_on(
    train: Run, run_script: Run
) -> None:
    ended = train(*ENDLESS, "trainer.max_tokens=40000", "hydra.run.dir=a")
    assert ended.status == 0, ended.stderr
    saved = torch.load("a/checkpoints/last.ckpt", weights_only=True)
    tokens, steps = saved["callbacks"]["Timer"]["tokens"], saved["global_step"]
    a_step = 32 * 64  # at most, see the settings of `train`
    assert 40000 <= tokens < 40000 + a_step
    assert len(rates("a")) == steps
    assert rates("a")[0] == pytest.approx(3e-4)
    assert 0 < rates("a")[-1] <= 3e-4 * a_step / 40000
    assert rates("a") == sorted(rates("a"), reverse=True)
    assert any(row.get("val/loss") for row in rows("a"))  # validated where it ended
    # What was learned from counts; of a step that is only begun nothing does.
    assert run_script("train", "resume=a", "trainer.max_tokens=60000").status == 0
    more = torch.load("a/checkpoints/last.ckpt", weights_only=True)
    assert 60000 <= more["callbacks"]["Timer"]["tokens"] < 60000 + a_step
    assert more["global_step"] > steps


def test_the_nearest_of_several_limits_ends_the_training(train: Run) -> None:
    limits = ("trainer.max_tokens=10000000", "trainer.max_time=1h", "trainer.max_steps=5")
    assert train(*ENDLESS, *limits, "hydra.run.dir=a").status == 0
    assert rates("a") == pytest.approx([3e-4 * (5 - step) / 5 for step in range(5)])
    limits = ("trainer.max_tokens=4000", "trainer.max_time=1h", "trainer.max_steps=500")
    assert train(*ENDLESS, *limits, "hydra.run.dir=b").status == 0
    assert len(rates("b")) < 10
    assert rates("b")[-1] <= 3e-4 / 2


def test_the_learning_rate_falls_until_the_time_is_up(train: Run) -> None:
    assert train(*ENDLESS, "trainer.max_time=2s", "callbacks={}", "hydra.run.dir=a").status == 0
    assert rates("a")[-1] < 0.2 * rates("a")[0]


def test_a_curriculum_follows_the_tokens(train: Run) -> None:
    ended = train(*ENDLESS, "trainer.max_tokens=40000", "data.curriculum.by=length", "hydra.run.dir=a")
    assert ended.status == 0, ended.stderr
