"""Gradient accumulation: trainer.accumulate_grad_batches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from minillm.callbacks import GradientClipping, RandomState, Throughput
from minillm.data import Batch, TextDataModule
from minillm.data.batching import PackedRows
from minillm.models import MiniGPT
from minillm.training import TrainingModule, build_trainer, seed_everything, warmup_schedule


class Recorder(L.Callback):
    """Keeps what was logged with each optimizer step."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.rates: list[float] = []
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.norms.append(float(trainer.callback_metrics["train/grad_norm"]))
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class Interrupted(L.Callback):
    """Keeps a checkpoint of a step, and ends the training there as a fault would."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


@pytest.fixture
def fit(data: TextDataModule, tmp_path: Path) -> Callable[..., tuple[TrainingModule, Recorder]]:
    def fit(
        batches: Any,
        *callbacks: L.Callback,
        ckpt_path: Path | None = None,
        max_norm: float = 1.0,
        dropout: float = 0.0,
        **options: Any,
    ) -> tuple[TrainingModule, Recorder]:
        seed_everything(0)
        module = TrainingModule(
            MiniGPT(len(data.tokenizer), max_length=64, embedding_dim=32, dropout=dropout),
            data.tokenizer,
            optimizer=partial(torch.optim.SGD, lr=0.01),
            scheduler=partial(warmup_schedule, warmup=0),
        )
        recorder = Recorder()
        trainer = build_trainer(
            accelerator="cpu",
            precision="32-true",
            callbacks=[RandomState(0), GradientClipping(max_norm), Throughput(), *callbacks, recorder],
            logger=False,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            **options,
        )
        loader = batches if isinstance(batches, L.LightningDataModule) else DataLoader(batches, batch_size=None)
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return module, recorder

    return fit


def weights(module: TrainingModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.network.parameters()])


def rows(data: TextDataModule, size: int, count: int = 96) -> list[Batch]:
    """Full rows of 64 tokens, in batches of some size."""
    packed = PackedRows(data.splits["train"], 64, seed=0)
    return [packed.__getitems__(range(start, start + size)) for start in range(0, count, size)]


def test_two_batches_of_16_make_the_step_of_one_of_32(data: TextDataModule, fit: Callable[..., Any]) -> None:
    whole, one = fit(rows(data, 32), max_epochs=1)
    halves, two = fit(rows(data, 16), max_epochs=1, accumulate_grad_batches=2)
    assert one.steps == two.steps == 3
    assert two.norms == pytest.approx(one.norms, rel=1e-5)
    assert two.rates == one.rates  # the schedule counts steps, not batches
    torch.testing.assert_close(weights(halves), weights(whole), rtol=1e-5, atol=1e-6)


def test_batches_of_other_lengths_count_the_same_each(data: TextDataModule, fit: Callable[..., Any]) -> None:
    long, short = rows(data, 16, 32)
    short = {**short, "targets": short["targets"].clone()}
    short["targets"][:, 8:] = 0  # an eighth of the tokens
    _, recorded = fit([long, short], max_epochs=1, accumulate_grad_batches=2, max_norm=1e9)
    module, _ = fit([], max_epochs=1)
    losses = [
        F.cross_entropy(
            module(batch["inputs"], batch["documents"]).flatten(0, 1),
            batch["targets"].flatten(),
            ignore_index=0,
            label_smoothing=0.1,
        )
        for batch in (long, short)
    ]
    gradients = torch.autograd.grad((losses[0] + losses[1]) / 2, list(module.network.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert recorded.norms == pytest.approx([norm.item()], rel=1e-4)


def test_the_schedule_ends_with_the_training_and_an_epochs_rest_makes_a_step(
    data: TextDataModule, fit: Callable[..., Any]
) -> None:
    batches = rows(data, 8, 80)  # 10: steps behind 4, 8 and 10 of them
    _, recorded = fit(batches, max_epochs=2, accumulate_grad_batches=4)
    assert recorded.steps == 6
    assert recorded.rates == pytest.approx([0.01 * (1 - step / 6) for step in range(1, 7)])


def test_the_speed_is_logged_once_a_step_and_counts_all_its_tokens(
    data: TextDataModule, fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("minillm.callbacks.throughput.time.perf_counter", lambda: next(clock))
    logged: list[float] = []
    original = TrainingModule.log

    def log(self: TrainingModule, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == "train/tokens_per_second":
            logged.append(float(value))
        original(self, name, value, *args, **kwargs)

    monkeypatch.setattr(TrainingModule, "log", log)
    fit(rows(data, 8, 64), max_epochs=1, accumulate_grad_batches=4)
    assert logged == [4 * 8 * 64, 4 * 8 * 64]  # tokens of a step, a tick of the clock each


def test_a_resumed_run_goes_on_between_accumulated_steps(
    data: TextDataModule, fit: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "at-2.ckpt"
    accumulated = {"max_epochs": 2, "accumulate_grad_batches": 3, "dropout": 0.1}
    whole, one = fit(data, **accumulated)
    with pytest.raises(InterruptedError):
        fit(data, Interrupted(2, path), **accumulated)
    resumed, two = fit(data, ckpt_path=path, **accumulated)
    assert two.steps == one.steps
    assert torch.equal(weights(resumed), weights(whole))
