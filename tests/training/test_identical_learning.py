"""What makes a step fast leaves alone what it learns.

Each case takes one of the shortcuts away, and the losses of a training stay on each other: in float32 to rounding, in
bfloat16 and with other random numbers within what three seeds differ by.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.callbacks import GradientClipping, RandomState
from minillm.data import TextDataModule
from minillm.models import MiniGPT, minigpt
from minillm.models.dropout import Dropout
from minillm.models.masks import DocumentMask
from minillm.training import TrainingModule, build_trainer, seed_everything, warmup_schedule

STEPS = 30
SEEDS = (0, 1, 2)


class LogitsOnly(nn.Module):
    """A network that hides how its logits are made, so that the loss has to take them all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.max_length = network.max_length

    def forward(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        return self.network(ids, documents)


def pytorchs_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | DocumentMask | None, dropout: Dropout
) -> Tensor:
    mask = mask.dense if isinstance(mask, DocumentMask) else mask
    p = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=p, is_causal=mask is None)


def pytorchs_dropout(self: Dropout, x: Tensor) -> Tensor:
    return F.dropout(x, self.p, self.training)


def losses(
    data: TextDataModule,
    folder: Path,
    seed: int = 0,
    dropout: float = 0.0,
    precision: str = "32-true",
    plain_loss: bool = False,
    fused: bool = True,
    compile: str = "off",
) -> list[float]:
    """Return ``train/loss`` of each step."""
    seed_everything(seed)
    network: nn.Module = MiniGPT(len(data.tokenizer), max_length=64, embedding_dim=32, dropout=dropout)
    module = TrainingModule(
        LogitsOnly(network) if plain_loss else network,
        data.tokenizer,
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.01, fused=fused),
        scheduler=partial(warmup_schedule, warmup=5),
        compile=compile,
    )
    recorder = Losses()
    trainer = build_trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=STEPS,
        callbacks=[RandomState(seed), GradientClipping(1.0), recorder],
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    return recorder.losses


class Losses(L.Callback):
    """Keeps each step's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


@pytest.fixture(scope="module", params=["dynamic", "packed"])
def data(make_data: Callable[..., TextDataModule], request: pytest.FixtureRequest) -> TextDataModule:
    data = make_data(batch_size=16, batching=request.param)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="module")
def fast(data: TextDataModule, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(data, tmp_path_factory.mktemp("fast"))


def test_the_chunked_loss_learns_what_the_plain_one_learns(
    data: TextDataModule, fast: list[float], tmp_path: Path
) -> None:
    assert losses(data, tmp_path, plain_loss=True) == pytest.approx(fast, rel=1e-4)


def test_the_chunked_loss_changes_no_random_number(data: TextDataModule, tmp_path: Path) -> None:
    chunked, plain = (losses(data, tmp_path, dropout=0.2, plain_loss=plain) for plain in (False, True))
    assert chunked == pytest.approx(plain, rel=1e-4)


def test_attention_by_matrix_products_learns_what_pytorchs_learns(
    data: TextDataModule, fast: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minigpt, "attention", pytorchs_attention)
    assert losses(data, tmp_path) == pytest.approx(fast, rel=1e-4)


def test_the_fused_optimizer_learns_what_the_plain_one_learns(
    data: TextDataModule, fast: list[float], tmp_path: Path
) -> None:
    assert losses(data, tmp_path, fused=False) == pytest.approx(fast, rel=1e-4)


def ends(curves: list[list[float]]) -> tuple[float, float]:
    """Return mean and standard deviation over the seeds of the last ten steps' mean loss."""
    values = [statistics.fmean(curve[-10:]) for curve in curves]
    return statistics.fmean(values), statistics.stdev(values)


def test_bfloat16_and_cheap_dropout_are_within_the_noise_of_three_seeds(
    data: TextDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [losses(data, tmp_path, seed, dropout=0.2, precision="bf16-mixed") for seed in SEEDS]
    monkeypatch.setattr(Dropout, "forward", pytorchs_dropout)
    theirs = [losses(data, tmp_path, seed, dropout=0.2) for seed in SEEDS]
    (our_mean, our_spread), (their_mean, their_spread) = ends(ours), ends(theirs)
    assert abs(our_mean - their_mean) < 2 * max(our_spread, their_spread)
    # The same initial weights and batches: early on the curves all but touch.
    for our_curve, their_curve in zip(ours, theirs, strict=True):
        assert our_curve[:3] == pytest.approx(their_curve[:3], rel=0.02)
