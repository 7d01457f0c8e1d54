from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.checkpoint import read_checkpoint

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_training_ends_when_the_figure_gets_no_better(train: Run) -> None:
    patience = ("trainer.max_epochs=9", "optimizer.lr=0", "callbacks.early_stopping.patience=2")  # never better
    assert train(*patience, "evaluation=none", "hydra.run.dir=run").status == 0
    assert read_checkpoint("run/checkpoints/last.ckpt")["epoch"] == 2  # the first counts as better than none


def test_a_figure_of_which_more_is_better_is_watched_with_mode_max(train: Run) -> None:
    accuracy = ("callbacks.early_stopping.monitor=val/accuracy", "callbacks.early_stopping.mode=max")
    rising = ("trainer.max_epochs=3", "optimizer.lr=0.01", "callbacks.early_stopping.patience=1")
    assert train(*accuracy, *rising, "evaluation=none", "hydra.run.dir=run").status == 0
    assert read_checkpoint("run/checkpoints/last.ckpt")["epoch"] > 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("monitor=val/los", "monitor=val/los: is not a validation metric; there are val/loss"),
        ("monitor=foo", "monitor=foo: is not a validation metric; there are val/"),
        ("patience=0", "patience=0: must be at least 1 validation, such as 3"),
        ("min_delta=-1", "min_delta=-1: must be at least 0"),
        ("min_delta=nan", "min_delta=nan: is not a number"),
        ("mode=up", "mode=up: must be min (lower is better) or max"),
    ],
)
def test_what_cannot_work_is_one_line(train: Run, setting: str, says: str) -> None:
    ended = train(f"callbacks.early_stopping.{setting}")
    assert ended.status == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"error: callbacks.early_stopping.{says}")
