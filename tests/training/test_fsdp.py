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

import pytest
import sharded_worker
import torch
from torch import nn

import minillm
from minillm.checkpoint import read_checkpoint

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


def test_on_one_process_too(tmp_path: Path, figures: dict[str, Any]) -> None:
    calls = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    try:
        recomputing = sharded_worker.run(tmp_path, "again", "minigpt", "auto", 20, recompute=True, devices=1)
    finally:
        hook.remove()
    assert recomputing["steps"] == figures["alone"]["steps"]
    assert calls.count("CausalSelfAttention") > 2 * 20 * 3 > calls.count("Block") - 3 * 20  # again for each gradient


@pytest.mark.parametrize("model", ["minigpt", "modern"])
def test_a_checkpoint_is_that_of_ddp(model: str, folder: Path, figures: dict[str, Any]) -> None:
    ddp, fsdp = (read_checkpoint(folder / f"{model}_{strategy}" / "last.ckpt") for strategy in ("ddp", "fsdp"))
    assert set(fsdp) == set(ddp)
    assert list(fsdp["state_dict"]) == list(ddp["state_dict"])
    for name, weights in ddp["state_dict"].items():
        assert type(fsdp["state_dict"][name]) is torch.Tensor
        torch.testing.assert_close(fsdp["state_dict"][name], weights, rtol=0.01, atol=0.01, msg=name)
    [theirs], [ours] = ddp["optimizer_states"], fsdp["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"])
    for number, state in theirs["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(ours["state"][number][name], value, rtol=0.01, atol=0.01)


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
    arguments = {"model": "modern", "strategy": "auto", "steps": MORE, "optimizer": "muon", "devices": 1}
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
