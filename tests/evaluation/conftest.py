import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from minillm.evaluation.schema import Evaluation

EXAMPLE = Path(__file__).with_name("example_evaluation.json")
METRICS = """epoch,lr,step,train/loss,val/loss
,0.0003,9,,
0,,9,7.9,
,0.0002,19,,
0,,19,6.4,
0,,21,,6.1
,0.0001,29,,
1,,29,5.6,
1,,43,,5.5
"""


@pytest.fixture
def evaluation() -> Evaluation:
    example: Evaluation = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return {**example, "run": None}  # that run is nowhere


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes the folder of a run that trained; a test adds or breaks the rest."""

    def make(folder: str, evaluation: Evaluation | None = None, **overrides: Any) -> Path:
        run = tmp_path / folder
        config: dict[str, Any] = {"model": {"dropout": 0.1, "max_length": "${data.max_length}"}, "data": {}, "seed": 0}
        named = {key.replace("__", "."): value for key, value in overrides.items()}
        for name, value in named.items():
            group, _, setting = name.partition(".")
            if setting:
                config[group][setting] = value
            elif group in config:
                config[group] = value
        said = [f"{name}={value}" for name, value in named.items()]
        hydra = {
            "job": {"name": "train"},
            "runtime": {"choices": {"data": "sample", **named}},
            "overrides": {"task": said},
        }
        files = {
            ".hydra/overrides.yaml": yaml.dump(said),
            ".hydra/config.yaml": yaml.dump(config),
            ".hydra/hydra.yaml": yaml.dump({"hydra": hydra}),
            "metrics.csv": METRICS,
        }
        if evaluation is not None:
            files["evaluation/evaluation.json"] = json.dumps(evaluation)
        for path, text in files.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_text(text, encoding="utf-8")
        return run

    return make
