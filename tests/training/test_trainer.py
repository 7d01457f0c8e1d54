from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from minillm.errors import SettingError
from minillm.training import build_trainer


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_epochs", -5, "must be at least 0, such as 15, or -1 for no end"),
        ("max_steps", -2, "must be at least 0, or -1"),
        ("min_epochs", -1, "must be at least 0, or null"),
        ("devices", -3, "must be at least 1, or -1 for all there are"),
        ("num_nodes", 0, "must be at least 1"),
        ("accumulate_grad_batches", 0, "must be at least 1"),
        ("accumulate_grad_batches", -2, "must be at least 1"),
        ("val_check_interval", 0, "must be over 0"),
        ("val_check_interval", float("nan"), "must be over 0"),
        ("check_val_every_n_epoch", 0, "must be at least 1"),
        ("check_val_every_n_epoch", -5, "must be at least 1"),
        ("limit_train_batches", -1, "must be a share of the batches"),
        ("limit_val_batches", float("nan"), "must be a share of the batches"),
        ("limit_test_batches", -0.5, "must be a share of the batches"),
        ("overfit_batches", -1, "must be a share of the batches"),
        ("overfit_batches", 1e18, "at most 1000000000 would do"),
        ("fast_dev_run", -1, "must be true, false or a number of batches"),
        ("num_sanity_val_steps", -2, "must be at least 0, or -1"),
        ("log_every_n_steps", 0, "must be at least 1"),
        ("log_every_n_steps", -10, "must be at least 1"),
        ("gradient_clip_val", float("nan"), "must be at least 0"),
        ("reload_dataloaders_every_n_epochs", -1, "must be at least 0"),
        ("max_tokens", 0, "must be at least 1, such as 10000000, and at most"),
        ("max_tokens", 10**18, "must be at least 1, such as 10000000, and at most"),
        ("max_time", "abc", "must be a time over 0, such as 00:01:30:00"),
        ("max_time", "00:00:00:00", "must be a time over 0"),
        ("max_time", "9999999999d", "must be a time over 0"),
        ("max_time", {}, "must be a time over 0"),
        ("max_time", {"hours": -1}, "must be a time over 0"),
        ("max_time", {"fortnights": 1}, "must be a time over 0"),
        (
            "strategy",
            "fsdp",
            "shards the parameters, but gradient clipping, Muon and checkpoints do not support it; fsdp2",
        ),
        ("strategy", "deepspeed_stage_2", "shards the parameters"),
        ("precision", "16-true", "keeps the weights in half precision"),
        ("precision", "bf16-true", "keeps the weights in half precision"),
        ("precision", "transformer-engine", ""),
        ("profiler", "abc", ""),
    ],
)
def test_an_argument_that_cannot_work_is_named_before_anything_begins(name: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        build_trainer(**{"accelerator": "cpu", name: value})
    assert str(caught.value).startswith(f"{name}={value}: {says}")


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_that_comes_as_an_object_is_no_way_around(strategy: Callable[[], Any]) -> None:
    with pytest.raises(SettingError, match=f"strategy={strategy.__name__}: shards the parameters"):
        build_trainer(accelerator="cpu", strategy=strategy())


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": -1, "max_steps": -1, "num_sanity_val_steps": -1, "precision": "64-true"},
        {"limit_train_batches": 0, "limit_val_batches": 0.5, "overfit_batches": 3, "precision": "bf16-mixed"},
        {"check_val_every_n_epoch": None, "val_check_interval": 7, "fast_dev_run": True, "strategy": "ddp"},
        {"val_check_interval": "00:01:00:00", "devices": "1", "log_every_n_steps": None, "fast_dev_run": False},
    ],
)
def test_what_lightning_takes_is_taken(options: dict[str, Any]) -> None:
    build_trainer(accelerator="cpu", logger=False, **options)


@pytest.mark.parametrize("limit", ["00:01:30:00", "1h30min", "90 min", "1.5h", "0d 5400s", {"minutes": 90}])
def test_a_time_limit_is_a_clock_or_says_its_units(limit: Any) -> None:
    trainer: Any = build_trainer(max_time=limit, accelerator="cpu")
    [clock] = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    assert clock.time_remaining() == timedelta(minutes=90).total_seconds()
