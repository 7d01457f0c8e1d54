"""Training as a whole: a change of its arithmetic, intended or not, shows here."""

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.callbacks import GradientClipping, RandomState, TextSamples
from minillm.corpus import Cleaner, DuplicateFilter, QualityFilter
from minillm.data import Augmentation, Curriculum, TextDataModule
from minillm.errors import SettingError
from minillm.models import MiniGPT
from minillm.training import TrainingModule, build_trainer, seed_everything, warmup_schedule
from minillm.training.module import missing_for_compile

# train/loss of the first 20 steps, as they came out when the arithmetic was last changed on purpose. Without dropout,
# whose random numbers PyTorch draws otherwise on another make of processor.
GOLDEN = [
    *(5.98041, 5.92280, 5.83268, 5.66293, 5.38753, 5.08610, 4.59018, 4.35237, 4.04545, 3.92392),
    *(3.83274, 3.77274, 3.73472, 3.58523, 3.41797, 3.50821, 3.34253, 3.34727, 3.29595, 3.82201),
]


class Recorder(L.Callback):
    """Keeps what happened at each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.clipped: list[float] = []
        self.in_training_mode: list[bool] = []
        self.figures: dict[str, float] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.in_training_mode.append(all(module.training for module in pl_module.network.modules()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        gradients = [p.grad.double().flatten() for p in pl_module.parameters() if p.grad is not None]
        self.clipped.append(torch.cat(gradients).norm().item())

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.losses.append(float(trainer.callback_metrics.get("train/loss", math.nan)))
        self.norms.append(float(trainer.callback_metrics.get("train/grad_norm", math.nan)))

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.figures = {name: float(value) for name, value in trainer.callback_metrics.items()}


def a_module(
    data: TextDataModule,
    lr: float = 0.01,
    smoothing: float = 0.1,
    dropout: float = 0.0,
    layers: int = 2,
    compile: str = "off",
) -> TrainingModule:
    seed_everything(0)
    return TrainingModule(
        MiniGPT(len(data.tokenizer), max_length=64, embedding_dim=32, num_layers=layers, dropout=dropout),
        data.tokenizer,
        optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.01),
        scheduler=partial(warmup_schedule, warmup=5),
        label_smoothing=smoothing,
        compile=compile,
    )


def train(
    module: TrainingModule, data: TextDataModule, folder: Path, *callbacks: L.Callback, **options: Any
) -> Recorder:
    recorder = Recorder()
    trainer = build_trainer(
        accelerator="cpu",
        precision="32-true",
        callbacks=[RandomState(0), GradientClipping(1.0), TextSamples(["La"], max_new_tokens=2), *callbacks, recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"log_every_n_steps": 1, **options},
    )
    trainer.fit(module, data)
    return recorder


@pytest.fixture(scope="module")
def raw_data(make_data: Callable[..., TextDataModule]) -> TextDataModule:
    """The sample's articles as they are: what a step of cleaning does is none of training's arithmetic."""
    data = make_data(
        cleaning=Cleaner(**{step.name: False for step in fields(Cleaner)}),
        quality=QualityFilter(language=None, redirects=False, disambiguations=False, lists=False),
        duplicates=DuplicateFilter(exact=False, near=False),
        batch_size=16,
    )
    data.prepare_data()
    data.setup()
    return data


def test_the_losses_of_the_first_20_steps_are_the_golden_ones(raw_data: TextDataModule, tmp_path: Path) -> None:
    assert train(a_module(raw_data), raw_data, tmp_path, max_steps=20).losses == pytest.approx(GOLDEN, rel=1e-3)


class SeenBatches(L.Callback):
    """Keeps what each epoch trained on."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[Tensor]] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        self.epochs.setdefault(trainer.current_epoch, []).append(batch["inputs"].clone())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batching": "packed"},
        {"batching": "packed", "augmentation": Augmentation(word_dropout=0.2)},
        {"curriculum": Curriculum(by="difficulty", warmup=0.5)},
    ],
    ids=["dynamic", "packed", "augmented", "curriculum"],
)
def test_each_epoch_of_the_trainer_has_batches_of_its_own(
    make_data: Callable[..., TextDataModule], settings: dict[str, Any], tmp_path: Path
) -> None:
    data = make_data(**settings)
    seen = SeenBatches()
    trainer = build_trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_val_batches=0,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data.prepare_data()
    data.setup()
    trainer.fit(a_module(data, layers=1), data)
    assert list(seen.epochs) == [0, 1, 2]
    for first, second in combinations(seen.epochs.values(), 2):
        assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loader = data.train_dataloader()
    for epoch, batches in seen.epochs.items():
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        expected = [batch["inputs"] for batch in loader]
        assert len(batches) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(batches, expected, strict=True))


def test_three_steps_are_those_of_a_loop_without_lightning(data: TextDataModule, tmp_path: Path) -> None:
    recorded = train(a_module(data), data, tmp_path, max_steps=3)
    network = a_module(data).network
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.01)
    loader = data.train_dataloader()
    for step, batch in zip(range(3), loader, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1) / 5
        logits, targets = network(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()
        assert F.cross_entropy(logits, targets, ignore_index=0).item() == pytest.approx(recorded.losses[step], rel=1e-5)
        optimizer.zero_grad()
        F.cross_entropy(logits, targets, ignore_index=0, label_smoothing=0.1).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0).item()
        assert norm == pytest.approx(recorded.norms[step], rel=1e-4)
        optimizer.step()


def test_the_gradient_is_clipped_and_its_norm_before_that_is_logged(data: TextDataModule, tmp_path: Path) -> None:
    recorded = train(a_module(data), data, tmp_path, max_steps=8)
    assert max(recorded.norms) > 1 > min(recorded.norms)  # both cases occur
    for norm, clipped in zip(recorded.norms, recorded.clipped, strict=True):
        assert clipped == pytest.approx(min(norm, 1.0), rel=1e-4)


def test_label_smoothing_is_never_in_a_reported_loss(data: TextDataModule, tmp_path: Path) -> None:
    plain, smoothed = (
        train(a_module(data, lr=0.0, smoothing=smoothing), data, tmp_path, max_epochs=1) for smoothing in (0.0, 0.9)
    )
    # At a learning rate of 0 both networks stay what they were.
    assert smoothed.figures["val/loss"] == plain.figures["val/loss"]
    assert smoothed.losses == pytest.approx(plain.losses, rel=1e-6)
    assert plain.figures["train/loss_smoothed"] == plain.figures["train/loss"]
    assert smoothed.figures["train/loss_smoothed"] != pytest.approx(plain.figures["train/loss"], rel=1e-3)


def test_dropout_is_on_again_after_a_validation_that_writes_samples(data: TextDataModule, tmp_path: Path) -> None:
    recorded = train(a_module(data, dropout=0.1), data, tmp_path, max_steps=12, val_check_interval=4)
    assert "val/loss" in recorded.figures
    assert recorded.in_training_mode == [True] * 12


class LoggedIndex(L.Callback):
    """Logs the index of each batch, as the mean of an epoch."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.log("index", float(batch_idx), on_step=False, on_epoch=True, batch_size=1)


def test_an_epochs_mean_is_over_all_steps_and_not_the_logged_ones_alone(data: TextDataModule, tmp_path: Path) -> None:
    recorded = train(a_module(data), data, tmp_path, LoggedIndex(), max_epochs=1, log_every_n_steps=5)
    assert len(recorded.losses) > 5
    assert recorded.figures["index"] == pytest.approx((len(recorded.losses) - 1) / 2)


def test_the_loss_falls(data: TextDataModule, tmp_path: Path) -> None:
    losses = train(a_module(data), data, tmp_path, max_steps=40).losses
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "optimizer.lr=-1: Invalid learning rate: -1"),
        ({"betas": (2, 0.9)}, r"optimizer.betas=\(2, 0.9\): Invalid beta parameter"),
        ({"weight_decay": -0.5}, "optimizer.weight_decay=-0.5: Invalid weight_decay"),
        ({"eps": -1}, "optimizer.eps=-1: Invalid epsilon"),
    ],
)
def test_a_setting_that_the_optimizer_refuses_is_named_before_training(
    data: TextDataModule, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        TrainingModule(
            MiniGPT(10, embedding_dim=8),
            data.tokenizer,
            optimizer=partial(torch.optim.AdamW, **settings),
            scheduler=warmup_schedule,
        )


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(seed: int) -> None:
    with pytest.raises(SettingError, match=f"seed={seed}: must be from 0 to 4294967295"):
        seed_everything(seed)


@pytest.mark.skipif(missing_for_compile(torch.device("cpu")) is not None, reason="torch.compile needs a C++ compiler")
def test_compiled_code_learns_what_the_plain_code_learns(data: TextDataModule, tmp_path: Path) -> None:
    compiled, plain = (
        train(a_module(data, layers=1, compile=compile), data, tmp_path, max_steps=4) for compile in ("on", "off")
    )
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    assert compiled.norms == pytest.approx(plain.norms, rel=1e-3)


def test_compiled_code_without_a_compiler_is_refused(
    data: TextDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SettingError, match=r"training\.compile=on: needs a C\+\+ compiler; off would do"):
        train(a_module(data, compile="on"), data, tmp_path, max_steps=1)
    assert len(train(a_module(data, compile="auto"), data, tmp_path, max_steps=1).losses) == 1
