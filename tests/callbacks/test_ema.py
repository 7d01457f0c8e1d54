from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from minillm.callbacks import EMA, Checkpointing, RandomState
from minillm.checkpoint import read_checkpoint
from minillm.data import TextDataModule
from minillm.errors import SettingError
from minillm.language_model import load
from minillm.models import MiniGPT
from minillm.training import TrainingModule, adamw, build_trainer, seed_everything, warmup_schedule

MODEL = {"embedding_dim": 32, "num_layers": 1}


class Recorder(L.Callback):
    """Keeps the weights behind each step, and those that are validated."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step > len(self.trained) - 1:  # before the first step, then behind each
            self.trained.append(weights_of(pl_module))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.validated.append(weights_of(pl_module))


def weights_of(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def train(data: TextDataModule, folder: Path, *callbacks: L.Callback, **options: Any) -> TrainingModule:
    seed_everything(0)
    module = TrainingModule(
        MiniGPT(len(data.tokenizer), max_length=64, **MODEL),
        data.tokenizer,
        optimizer=partial(adamw, lr=0.01),
        scheduler=partial(warmup_schedule, warmup=5),
        settings={"model": {"_target_": "minillm.models.MiniGPT", "max_length": 64, **MODEL}},
    )
    trainer = build_trainer(
        accelerator="cpu",
        precision="32-true",
        callbacks=[RandomState(0), *callbacks, Checkpointing(str(folder), every_n_train_steps=5)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, data)
    return module


def averages(trained: list[dict[str, Tensor]], decay: float) -> list[dict[str, Tensor]]:
    """Return the average behind each step, by hand in float64."""
    average = {name: weight.double() for name, weight in trained[0].items()}
    found = []
    for n, weights in enumerate(trained[1:]):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * weight.double() for name, weight in weights.items()}
        found.append(average)
    return found


def test_the_average_is_validated_kept_and_loaded_and_training_goes_on_without_it(
    data: TextDataModule, tmp_path: Path
) -> None:
    plain, recorded = Recorder(), Recorder()
    steps: dict[str, Any] = {"max_steps": 12, "val_check_interval": 4}
    train(data, tmp_path / "plain", plain, **steps)
    module = train(data, tmp_path / "ema", EMA(decay=0.5), recorded, **steps)
    # The weights that are trained are what they are without an average.
    assert len(plain.trained) == len(recorded.trained) == 12  # the 13th, behind the last step, is not seen here
    for ours, theirs in zip(recorded.trained, plain.trained, strict=True):
        for name, weight in theirs.items():
            assert torch.equal(ours[name], weight), name
    expected = averages(recorded.trained, 0.5)
    batches = len(recorded.validated) // 3
    for step, validated in ((4, recorded.validated[0]), (8, recorded.validated[batches])):
        for name, weight in expected[step - 1].items():
            torch.testing.assert_close(validated[name].double(), weight, rtol=1e-5, atol=1e-6)
            assert not torch.equal(validated[name], recorded.trained[step][name]), name
    best = read_checkpoint(tmp_path / "ema" / "best.ckpt")
    validated = recorded.validated[best["global_step"] // 4 * batches - 1]
    for name, weight in load(tmp_path / "ema" / "best.ckpt", "cpu").network.named_parameters():
        assert torch.equal(weight, validated[f"network.{name}"]), name
    # When training is over the network holds what was validated last.
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, recorded.validated[-1][name]), name


def test_a_decay_in_steps_not_batches(data: TextDataModule, tmp_path: Path) -> None:
    ema = EMA()
    train(data, tmp_path, ema, max_steps=3, accumulate_grad_batches=2)
    assert ema.updates == 3


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_never_takes_anything_in_is_refused(decay: float) -> None:
    with pytest.raises(SettingError, match=f"decay={decay}: must be at least 0 and under 1"):
        EMA(decay)
