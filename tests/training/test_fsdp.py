"""`trainer=fsdp` on two processes: the losses of `trainer=ddp`, and checkpoints that any number of processes resumes.

The trainings are those of `sharded_worker.py`, started once for all tests. Where Muon orthogonalizes in bfloat16, a
difference in the last bit of a sum comes back as one in the third digit of a matrix's step: hence a tolerance, and not
equality.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import sharded_worker
import torch
from torch import nn

import minillm
from minillm.callbacks import EMA, LearningRateFinder
from minillm.checkpoint import read_checkpoint
from minillm.errors import SettingError
from minillm.models import MiniGPT
from minillm.tokenization import WordTokenizer
from minillm.training import TrainingModule, adamw, build_trainer, warmup_schedule

TEXTS = ["En el año 1492, Colón llegó a América con tres carabelas.", "La ciudad tiene un puerto."]
STEPS, MORE = 50, 54
CASES: list[dict[str, Any]] = [
    {"name": "minigpt_ddp", "model": "minigpt", "strategy": "ddp"},
    {"name": "minigpt_fsdp", "model": "minigpt", "strategy": "fsdp2"},
    {"name": "modern_ddp", "model": "modern", "optimizer": "muon", "strategy": "ddp"},
    {"name": "modern_fsdp", "model": "modern", "optimizer": "muon", "strategy": "fsdp2"},
    {"name": "recomputing", "model": "minigpt", "strategy": "fsdp2", "recompute": True},
]


def two_processes(folder: Path, cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of trainings on two processes, by name; their checkpoints are in the folder."""
    (folder / "cases.json").write_text(json.dumps(cases))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, sharded_worker.__file__, str(folder / "cases.json")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {case["name"]: json.loads((folder / f"{case['name']}.json").read_text()) for case in cases}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, dict[str, Any]]:
    """Train with both strategies, and go on from what one process and two have left."""
    alone = sharded_worker.run(folder, "alone", "minigpt", "auto", 20, devices=1)
    (folder / "damaged.ckpt").write_bytes((folder / "alone/last.ckpt").read_bytes()[:-1000])
    going_on = [
        {"name": "alone_ddp", "strategy": "ddp", "steps": 25, "ckpt_path": str(folder / "alone/last.ckpt")},
        {"name": "alone_fsdp", "strategy": "fsdp2", "steps": 25, "ckpt_path": str(folder / "alone/last.ckpt")},
        {"name": "fsdp_ddp", "strategy": "ddp", "steps": MORE, "ckpt_path": str(folder / "minigpt_fsdp/last.ckpt")},
        {"name": "fsdp_fsdp", "strategy": "fsdp2", "steps": MORE, "ckpt_path": str(folder / "minigpt_fsdp/last.ckpt")},
        {"name": "damaged", "strategy": "fsdp2", "steps": MORE, "ckpt_path": str(folder / "damaged.ckpt")},
    ]
    cases = [{"steps": STEPS, **case} for case in CASES] + [{"model": "minigpt", **case} for case in going_on]
    return {**two_processes(folder, cases), "alone": alone}


def assert_alike(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    """Check that two tensors are the same matrix; after 50 steps of Muon in bfloat16 a few hundredths apart."""
    assert type(ours) is torch.Tensor
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= 0.1 * theirs.norm() + 1e-6, name


def column(figures: dict[str, Any], name: str = "train/loss") -> list[float]:
    return [step[name] for step in figures["steps"] if name in step]


@pytest.mark.parametrize("model", ["minigpt", "modern"])
def test_the_losses_are_those_of_ddp_with_a_share_of_the_weights(model: str, figures: dict[str, Any]) -> None:
    ddp, fsdp = figures[f"{model}_ddp"], figures[f"{model}_fsdp"]
    assert fsdp["sharded"]
    assert not ddp["sharded"]
    assert fsdp["held"] < 0.55 * ddp["held"]
    assert len(column(fsdp)) == STEPS
    assert column(fsdp)[-1] < column(fsdp)[0] - 1
    assert column(fsdp) == pytest.approx(column(ddp), rel=1e-4)
    for name in ("val/loss", "val/accuracy", "val/bleu"):
        assert column(fsdp, name) == pytest.approx(column(ddp, name), rel=1e-4), name


@pytest.mark.parametrize("model", ["minigpt", "modern"])
def test_the_gradient_is_clipped_by_the_norm_of_the_whole(model: str, figures: dict[str, Any]) -> None:
    ddp, fsdp = figures[f"{model}_ddp"], figures[f"{model}_fsdp"]
    norms = column(fsdp, "train/grad_norm")
    assert min(norms) > sharded_worker.MAX_NORM  # there was something to clip, at each step
    assert norms == pytest.approx(column(ddp, "train/grad_norm"), rel=1e-3)
    assert fsdp["clipped"] == pytest.approx([sharded_worker.MAX_NORM] * STEPS, rel=1e-4)


def test_recomputed_activations_give_the_same_numbers(figures: dict[str, Any]) -> None:
    assert figures["recomputing"]["steps"] == figures["minigpt_fsdp"]["steps"]


def test_recomputed_activations_do_so_on_one_process_without_sharding(tmp_path: Path, figures: dict[str, Any]) -> None:
    calls = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    try:
        recomputing = sharded_worker.run(tmp_path, "again", "minigpt", "auto", 20, recompute=True, devices=1)
    finally:
        hook.remove()
    assert recomputing["steps"] == figures["alone"]["steps"]
    assert calls.count("CausalSelfAttention") == 2 * calls.count("Block")  # a block's parts, again for the gradient


@pytest.mark.parametrize("model", ["minigpt", "modern"])
def test_a_checkpoint_is_that_of_ddp(model: str, folder: Path, figures: dict[str, Any]) -> None:
    ddp, fsdp = (read_checkpoint(folder / f"{model}_{strategy}" / "last.ckpt") for strategy in ("ddp", "fsdp"))
    assert set(fsdp) == set(ddp)
    assert list(fsdp["state_dict"]) == list(ddp["state_dict"])
    for name, weights in ddp["state_dict"].items():
        assert_alike(fsdp["state_dict"][name], weights, name)
    [theirs], [ours] = ddp["optimizer_states"], fsdp["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"])
    for number, state in theirs["state"].items():
        assert list(ours["state"][number]) == list(state)
        for name, value in state.items():
            assert_alike(ours["state"][number][name], value, f"{number} {name}")


def test_a_checkpoint_is_complete_in_itself(folder: Path, figures: dict[str, Any]) -> None:
    for model in ("minigpt", "modern"):
        ddp, fsdp = (minillm.load(folder / f"{model}_{kind}" / "last.ckpt", device="cpu") for kind in ("ddp", "fsdp"))
        assert fsdp.score(TEXTS)["nats"] == pytest.approx(ddp.score(TEXTS)["nats"], rel=1e-4)


def test_two_processes_go_on_from_one_and_from_two(figures: dict[str, Any]) -> None:
    assert len(column(figures["alone_fsdp"])) == 5
    assert column(figures["alone_fsdp"]) == pytest.approx(column(figures["alone_ddp"]), rel=1e-4)
    assert len(column(figures["fsdp_fsdp"])) == MORE - STEPS
    assert column(figures["fsdp_fsdp"]) == pytest.approx(column(figures["fsdp_ddp"]), rel=1e-4)


def test_one_process_goes_on_from_two(folder: Path, figures: dict[str, Any]) -> None:
    checkpoint = str(folder / "modern_fsdp/last.ckpt")
    arguments: dict[str, Any] = {
        "model": "modern",
        "strategy": "auto",
        "steps": MORE,
        "optimizer": "muon",
        "devices": 1,
    }
    ours, theirs = (
        sharded_worker.run(folder, f"{kind}_alone", ckpt_path=checkpoint.replace("fsdp", kind), **arguments)
        for kind in ("fsdp", "ddp")
    )
    assert len(column(ours)) == MORE - STEPS
    assert column(ours) == pytest.approx(column(theirs), rel=1e-4)


def test_a_damaged_checkpoint_is_named_by_all_processes(folder: Path, figures: dict[str, Any]) -> None:
    second = json.loads((folder / "damaged.second.json").read_text())
    assert figures["damaged"]["error"] == second["error"]
    assert "damaged.ckpt: is damaged" in second["error"]


@pytest.mark.parametrize("callback", [EMA(), LearningRateFinder("unused")])
def test_a_callback_that_needs_whole_weights_is_refused_by_name(callback: L.Callback) -> None:
    with pytest.raises(SettingError, match=f"strategy=fsdp2: .*the callback {type(callback).__name__} does not work"):
        build_trainer(accelerator="cpu", strategy="fsdp2", callbacks=[callback], logger=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "64-true"}, "precision=64-true: does not work with strategy=fsdp2"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0: does not work with strategy=fsdp2"),
    ],
)
def test_what_sharding_does_not_know_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_trainer(accelerator="cpu", strategy="fsdp2", logger=False, **options)


@pytest.mark.parametrize(
    ("network", "optimizer", "options", "message"),
    [
        (
            MiniGPT(9, 8, 8, 1, 2),
            torch.optim.Adagrad,
            {"strategy": "fsdp2"},
            "optimizer._target_=Adagrad: is not known",
        ),
        (nn.Linear(2, 2), adamw, {"strategy": "fsdp2"}, "trainer.strategy=fsdp2: .*`blocks`.* Linear has none"),
        (nn.Linear(2, 2), adamw, {"activation_checkpointing": True}, "activation_checkpointing=True: .*has none"),
    ],
)
def test_a_network_or_an_optimizer_that_cannot_is_refused_before_anything_is_read(
    network: nn.Module, optimizer: Any, options: dict[str, Any], message: str
) -> None:
    trainer = build_trainer(accelerator="cpu", logger=False, **options)
    with pytest.raises(SettingError, match=message):
        TrainingModule(network, WordTokenizer(), optimizer, warmup_schedule).check_trainer(trainer)
