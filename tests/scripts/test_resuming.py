"""resume=RUN goes on with a run's own settings; ckpt_path=... with the same ones, said again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from minillm.checkpoint import read_checkpoint

Run = Callable[..., Any]


@pytest.fixture
def resume(run_script: Run, run_folder: Path) -> Run:
    """Go on with a copy of the finished run, which is elsewhere by now."""
    shutil.copytree(run_folder, "moved")
    return lambda *words: run_script("train", "resume=moved", *words)


def error_of(ended: Any) -> str:
    assert ended.status == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    return str(line.removeprefix("error: "))


def test_a_run_goes_on_with_its_own_settings_and_those_that_may_change_take_effect(resume: Run) -> None:
    words = ("trainer.max_epochs=3", "trainer.log_every_n_steps=2", "evaluation=none", "~callbacks.text_samples")
    ended = resume(*words, "callbacks.early_stopping.patience=5", "trainer=cpu", "optimizer.lr=0.003")
    assert ended.status == 0, ended.stderr
    saved = read_checkpoint("moved/checkpoints/last.ckpt")
    config = saved["config"]
    assert (saved["epoch"], config["trainer"]["max_epochs"], config["trainer"]["log_every_n_steps"]) == (2, 3, 2)
    assert (config["optimizer"]["lr"], config["model"]["embedding_dim"], config["data"]["vocab_size"]) == (
        0.003,
        32,
        400,
    )
    assert (config["callbacks"]["early_stopping"]["patience"], config["evaluation"]) == (5, {})
    assert "text_samples" not in config["callbacks"]
    assert config["paths"]["output_dir"] == str(Path("moved").resolve())
    assert config["callbacks"]["checkpointing"]["dirpath"] == str(Path("moved/checkpoints").resolve())
    recorded = yaml.safe_load(Path("moved/.hydra/config.yaml").read_text())
    assert recorded == config
    assert "trainer.max_epochs=3" in yaml.safe_load(Path("moved/.hydra/overrides.yaml").read_text())
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=0.1"], "optimizer.lr=0.1: was 0.003 in the run in moved, and stays"),
        (["seed=1"], "seed=1: was 0 in the run in moved"),
        (["optimizer=muon"], "optimizer=minillm.training.Muon: was minillm.training.adamw in"),
        (["optimizer=adamw"], "optimizer.lr=0.0003: was 0.003 in"),  # with the choice all of its settings are said
        (["model=minigpt_modern"], "model=minillm.models.MiniGPTModern: was minillm.models.MiniGPT in"),
        (["scheduler=cosine"], "scheduler.after=cosine: was linear in"),
        (["data.batch_size=8"], "data.batch_size=8: was 32 in"),
        (["data.batching=packed"], "data.batching=packed: was dynamic in"),
        (["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2: was 1 in"),
        (["trainer.limit_train_batches=2"], "trainer.limit_train_batches=2: was 1.0 in"),
        (["callbacks.gradient_clipping.max_norm=2"], "callbacks.gradient_clipping.max_norm=2: was 1.0 in"),
        (["callbacks=[default,ema]"], "callbacks.ema=minillm.callbacks.EMA: was not there in"),
        (["~callbacks.random_state"], "callbacks.random_state=left out: was minillm.callbacks.RandomState in"),
        (["experiment=modern"], "data.max_length=256: was 64 in"),
        (["trainer.max_epochs=three"], "trainer.max_epochs=three: must be Optional[int]"),
        (["hydra.run.dir=other"], "hydra.run.dir=other: resume=moved goes on in the run's own folder; ckpt_path=moved"),
        (["ckpt_path=a.ckpt"], "ckpt_path=a.ckpt: resume=moved goes on from its run's last.ckpt"),
        (["-m"], "resume=moved: goes on with one run"),
    ],
)
def test_all_else_is_refused_before_anything_is_done(resume: Run, words: list[str], says: str) -> None:
    before = {path: path.read_bytes() for path in Path("moved").rglob("*") if path.is_file() and path.suffix != ".log"}
    assert error_of(resume(*words, "paths.data_dir=fresh")).startswith(says)
    assert not Path("fresh").exists()
    after = {path: path.read_bytes() for path in Path("moved").rglob("*") if path.is_file() and path.suffix != ".log"}
    assert {path: content for path, content in after.items() if path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "optimizer.lr=0.0003: was 0.003 in"),
        (["optimizer.lr=0.003", "seed=1"], "seed=1: was 0 in"),
        (["optimizer=muon"], "optimizer=minillm.training.Muon: was minillm.training.adamw in"),
        (["optimizer.lr=0.003", "model.num_heads=2"], "model.num_heads=2: was 4 in"),
        (["optimizer.lr=0.003", "data.vocab_size=300"], "data.vocab_size=300: was 400 in"),
    ],
)
def test_a_checkpoint_is_gone_on_from_with_the_settings_of_its_run_alone(
    train: Run, run_folder: Path, words: list[str], says: str
) -> None:
    last = run_folder / "checkpoints" / "last.ckpt"
    shown = error_of(train(f"ckpt_path={last}", *words, "paths.data_dir=fresh"))
    assert shown.startswith(says)
    assert f"in {last}, and stays while it goes on" in shown
    assert f"resume={run_folder} keeps all settings" in shown
    assert not Path("fresh").exists()
    assert not list(Path("outputs").glob("train/*"))


def test_a_damaged_run_is_named_and_a_class_that_its_checkpoint_alone_names_is_not_imported(resume: Run) -> None:
    last = Path("moved/checkpoints/last.ckpt")
    saved = torch.load(last, weights_only=True)
    Path("evil.py").write_text("open('ran', 'w')\nclass Net: ...\n")
    for place in ("model", "callbacks"):
        evil = {"_target_": "evil.Net"}
        changed = {**saved["config"], place: evil if place == "model" else {**saved["config"][place], "evil": [evil]}}
        torch.save({**saved, "config": changed}, last)
        assert "evil.Net: is named by the checkpoint alone, so it was not imported" in error_of(resume())
    assert not Path("ran").exists()
    last.write_bytes(b"Hola")
    assert error_of(resume()).startswith(f"resume=moved: {last} is damaged")
