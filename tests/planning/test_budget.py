"""`budget=` of scripts/train.py, through its command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from minillm.checkpoint import read_checkpoint
from minillm.configuration import flat
from minillm.errors import SettingError
from minillm.planning import budget_arguments
from minillm.planning.budget import seconds_of

Run = Callable[..., Any]
# What a run of two steps needs to be over soon.
SHORT = (
    "budget=30s",
    "trainer.max_steps=2",
    "data.num_articles=60",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "callbacks.bleu_evaluation.max_articles=2",
    "callbacks.text_samples.max_new_tokens=4",
    "evaluation=none",
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(run: str) -> list[dict[str, str]]:
    with (Path(run) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_budget_chooses_what_is_not_said_trains_and_says_why(run_script: Run) -> None:
    ended = run_script(
        "train", *SHORT, "model.embedding_dim=48", "data.augmentation.bpe_dropout=0.2", "hydra.run.dir=a"
    )
    assert ended.status == 0, ended.stderr
    assert "Plan for 30s" in ended.stdout
    assert "expected: " in ended.stdout
    config = read_checkpoint("a/checkpoints/last.ckpt")["config"]
    kept = flat(yaml.safe_load(Path("a/.hydra/config.yaml").read_text(encoding="utf-8")))
    written = {name: value for name, value in kept.items() if "${" not in str(value)}
    assert written == {name: flat(config)[name] for name in written}
    assert config["budget"] == config["trainer"]["max_time"] == "30s"
    assert config["trainer"]["max_steps"] == 2
    assert config["trainer"]["max_epochs"] == -1
    assert config["model"]["_target_"] == "minillm.models.MiniGPTModern"
    assert (config["model"]["embedding_dim"], config["model"]["tie_head"]) == (48, True)
    assert config["data"]["augmentation"]["bpe_dropout"] == 0.2
    assert config["data"]["batching"] == "packed"
    assert (config["scheduler"]["after"], config["optimizer"]["ns_steps"]) == ("linear", 5)
    given = {line.split()[1] for line in ended.stdout.splitlines() if line.rstrip(" │").endswith(" given")}
    assert given >= {"model.embedding_dim", "data.augmentation.bpe_dropout"}

    # A run that goes on has chosen.
    more = run_script("train", "resume=a", "trainer.max_steps=4")
    assert more.status == 0, more.stderr
    assert "Plan for" not in more.stdout
    went_on = read_checkpoint("a/checkpoints/last.ckpt")
    assert went_on["global_step"] == 4
    assert {**went_on["config"], "ckpt_path": None, "resume": None} == {
        **config,
        "trainer": {**config["trainer"], "max_steps": 4},
    }
    other = run_script("train", "resume=a", "budget=1h")
    assert (other.status, other.stderr.count("\n")) == (2, 1)
    assert "budget=1h: was 30s in the run in a" in other.stderr


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["tokenizer=word"], {"tokenizer._target_": "minillm.tokenization.WordTokenizer", "data.vocab_size": 5000}),
        (["model=gpt2", "optimizer=adamw"], {"model._target_": "minillm.models.GPT2", "optimizer.decay": "all"}),
        (["scheduler=cosine"], {"scheduler.after": "cosine"}),
        (["experiment=baseline_gpt2"], {"model._target_": "minillm.models.GPT2", "scheduler.after": "cosine"}),
        (["model.num_heads=3", "model.tie_head=false"], {"model.num_heads": 3, "model.tie_head": False}),
    ],
    ids=lambda words: "+".join(words) if isinstance(words, list) else "",
)
def test_what_is_said_wins(words: list[str], kept: dict[str, Any], run_script: Run) -> None:
    ended = run_script("train", *SHORT, *words, "hydra.run.dir=a")
    assert ended.status == 0, ended.stderr
    config = read_checkpoint("a/checkpoints/last.ckpt")["config"]
    for name, value in kept.items():
        group, _, key = name.partition(".")
        assert config[group][key] == value, name
    assert config["trainer"]["max_time"] == "30s"


def test_a_choice_that_varies_another_one_keeps_its_sizes(run_script: Run) -> None:
    words = ("model=minigpt_modern_base", "trainer.max_steps=1", "trainer.limit_val_batches=0")
    ended = run_script("train", *SHORT, *words, "model.num_layers=1", "hydra.run.dir=a")
    assert ended.status == 0, ended.stderr
    model = yaml.safe_load(Path("a/.hydra/config.yaml").read_text(encoding="utf-8"))["model"]
    assert (model["embedding_dim"], model["num_layers"], model["num_heads"]) == (512, 1, 8)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["budget=10"], "budget=10: must be a time from 30s to 3d"),
        (["budget=soon"], "budget=soon: must be a time from 30s to 3d"),
        (["budget=29s"], "budget=29s: must be a time from 30s to 3d"),
        (["budget=4d"], "budget=4d: must be a time from 30s to 3d"),
        (["budget=-1h"], "budget=-1h: must be a time from 30s to 3d"),
        (["budget=30s", "-m", "seed=0,1"], "budget=30s: chooses for one run, and -m asks for many"),
        (["budget=30s", "sweep=search"], "budget=30s: chooses for one run, and sweep=search asks for many"),
        (
            ["budget=30s", "hydra.mode=MULTIRUN"],
            "budget=30s: chooses for one run, and hydra.mode=MULTIRUN asks for many",
        ),
        (["budget=30s", "init_from=latest"], "budget=30s: chooses for new weights"),
        (["budget=30s", "ckpt_path=a.ckpt"], "budget=30s: chooses settings, and ckpt_path goes on with others"),
        (["budget=30s", "model.num_layers=0"], "model.num_layers=0: must be at least 1"),
        (["budget=30s", "data.min_length=10000000"], "data.min_length=10000000: leaves no article of 60"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_in_one_line(words: list[str], says: str, run_script: Run) -> None:
    ended = run_script("train", "data.num_articles=60", *words)
    assert ended.status == 2, ended.stderr
    assert ended.stderr.startswith(f"error: {says}")
    assert ended.stderr.count("\n") == 1
    assert not list(Path("outputs").glob("*/*"))


def test_a_budget_brings_its_groups_unless_others_are_named() -> None:
    groups = ["tokenizer=bpe", "model=minigpt_modern", "optimizer=muon", "scheduler=wsd"]
    assert budget_arguments(["seed=1"]) == ["seed=1"]
    assert budget_arguments(["budget=null"]) == ["budget=null"]
    assert budget_arguments(["budget=1h"]) == [*groups, "budget=1h"]
    again = budget_arguments(["budget=1h", "model=gpt2"])
    assert again == [groups[0], *groups[2:], "budget=1h", "model=gpt2"]
    assert budget_arguments(again) == again  # further processes of a run are started with it
    assert budget_arguments(["budget=1h", "experiment=original"]) == ["budget=1h", "experiment=original"]


def test_a_budget_is_a_time() -> None:
    assert seconds_of("1h30min") == 5400
    assert seconds_of("3d") == 259200
    for wrong in "2s", "73h", "", 600, None:
        with pytest.raises(SettingError, match="from 30s to 3d"):
            seconds_of(wrong)


@pytest.mark.long
def test_training_ends_on_time_and_the_learning_rate_with_it(run_script: Run) -> None:
    ended = run_script("train", "budget=30s", "data.num_articles=60", "evaluation=none", "hydra.run.dir=a")
    assert ended.status == 0, ended.stderr
    logged = rows("a")
    assert float([row["train/seconds"] for row in logged if row["train/seconds"]][-1]) == pytest.approx(30, rel=0.02)
    rates = [float(row["lr"]) for row in logged if row["lr"]]
    assert rates[-1] < 0.05 * max(rates)
    assert [row["val/bits_per_byte"] for row in logged if row["val/bits_per_byte"]]
    assert json.loads(json.dumps(read_checkpoint("a/checkpoints/best.ckpt")["config"]))["budget"] == "30s"
