import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.checkpoint import read_checkpoint

Run = Callable[..., Any]
SETTINGS = ("callbacks=[default,ema]", "~callbacks.early_stopping", "evaluation=none")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def validated(run: str) -> list[str]:
    with Path(run, "metrics.csv").open(encoding="utf-8") as file:
        return [row["step"] for row in csv.DictReader(file) if row["val/loss"]]


def test_a_long_epoch_is_validated_within_it_and_the_training_is_the_same(train: Run) -> None:
    # As often as validation takes no longer than the training before it.
    often = ("callbacks.timely_validation.max_share=1", "callbacks.timely_validation.min_minutes=0")
    assert train(*SETTINGS, *often, "hydra.run.dir=often").status == 0
    assert train(*SETTINGS, "hydra.run.dir=once").status == 0
    assert len(validated("once")) == 1
    assert len(validated("often")) > 1
    assert validated("often")[-1:] == validated("once")
    often_last, once_last = (read_checkpoint(f"{run}/checkpoints/last.ckpt") for run in ("often", "once"))
    for name, weight in once_last["state_dict"].items():
        assert torch.equal(often_last["state_dict"][name], weight), name


def test_training_that_runs_out_of_time_is_validated_and_tested(train: Run) -> None:
    limited = ("trainer.max_epochs=99999", "callbacks.elapsed_time.duration=00:00:00:01")
    ended = train(*SETTINGS, *limited, "trainer.check_val_every_n_epoch=99999", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    assert len(validated("run")) == 1
    best, last = (read_checkpoint(f"run/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == last["global_step"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("timely_validation.max_share=2", "max_share=2: must be at least 0, which means never, and at most 1"),
        ("timely_validation.min_minutes=-1", "min_minutes=-1: must be at least 0"),
        ("checkpointing.every_minutes=0", "every_minutes=0: must be over 0, such as 5, or null"),
    ],
)
def test_what_cannot_work_is_one_line(train: Run, setting: str, says: str) -> None:
    ended = train(f"callbacks.{setting}")
    assert ended.status == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"error: callbacks.{setting.split('.')[0]}.{says}")
