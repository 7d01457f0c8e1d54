"""What a second process brings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.parallel import cores

SMALL = (
    "benchmark=quick",
    "rounds=2",
    "data.num_articles=60",
    "data.vocab_size=400",
    "data.max_length=32",
    "data.batch_size=4",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "trainer.precision=32-true",
    "parts=[processes]",
)


@pytest.mark.skipif(cores() < 2, reason="two processes have a core each")
def test_training_and_preparation_are_measured_with_one_process_and_with_two(
    run_script: Callable[..., Any], tmp_path: Path
) -> None:
    ended = run_script("benchmark", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.stderr
    figures = json.loads((tmp_path / "run" / "benchmark.json").read_text(encoding="utf-8"))["parts"]["processes"]
    assert [row["processes"] for row in figures["training"]] == [1, 2]
    assert [len(row["tokens_per_second"]["values"]) for row in figures["training"]] == [2, 4]  # rounds x processes
    assert all(row["lost"]["median"] < 1 for row in figures["training"])
    assert [row["processes"] for row in figures["preparation"]] == [1, 2]
    assert all(row["mb_per_second"] > 0 for row in figures["preparation"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("processes=[0]", "must be numbers from 1 on"),
        ("steps=0", "must be at least 1"),
        ("pages=5", "must be at least 100"),
    ],
)
def test_sizes_that_cannot_be_measured_are_one_line(run_script: Callable[..., Any], setting: str, says: str) -> None:
    ended = run_script("benchmark", *SMALL, f"benchmark.processes.{setting}")
    assert ended.status == 2
    assert ended.stderr.startswith(f"error: benchmark.processes.{setting}: {says}")
