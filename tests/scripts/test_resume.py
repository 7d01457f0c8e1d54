"""A run that is killed and resumed ends where the uninterrupted one does, bit for bit."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minillm.checkpoint import read_checkpoint
from tests.reliability.kills import Kill
from tests.scripts.resuming import assert_equal_tensors, assert_same_training, finish, kill, logged

# Small and in float32; ten batches per epoch, or nine packed ones.
SETTINGS = (
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=3",
    "data.num_articles=60",
    "data.batch_size=32",
    "data.vocab_size=400",
    "data.max_length=64",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "callbacks.bleu_evaluation.max_articles=2",
    "callbacks.text_samples.max_new_tokens=4",
    "~callbacks.bias_evaluation",
    "evaluation=none",
)
CHOICES = {
    "dynamic": ("data.batching=dynamic",),
    "packed": ("data.batching=packed",),
    "modern": (
        "model=minigpt_modern",
        "optimizer=muon",
        "scheduler=wsd",
        "callbacks=[default,ema]",
        "data.batching=packed",
    ),
    "optional": (  # whatever may be switched on between the text and the batches; the curriculum outlasts the kill
        "tokenizer=bpe",
        "tokenizer.digits=true",
        "tokenizer.names=20",
        "data.cleaning.dates=true",
        "data.cleaning.numbers=true",
        "data.augmentation.word_dropout=0.1",
        "data.augmentation.bpe_dropout=0.1",
        "data.augmentation.sentence_reordering=0.5",
        "data.curriculum.by=difficulty",
        "data.curriculum.warmup=0.8",
    ),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a run that nothing interrupted, made once for each choice of settings."""
    return functools.cache(lambda *settings: finish(tmp_path_factory.mktemp("runs") / "whole", *SETTINGS, *settings))


# Within the first epoch, right after the end of one, within a later one; into another folder, or on in its own.
@pytest.mark.parametrize(
    ("choices", "when", "folder"),
    [
        ("dynamic", Kill("on_train_batch_end", 5), "resumed"),
        ("dynamic", Kill("on_train_epoch_end", 10, after=True), "resumed"),
        ("packed", Kill("on_train_batch_end", 14), "killed"),
        ("modern", Kill("on_train_batch_end", 13), "resumed"),
        ("optional", Kill("on_train_batch_end", 13), "resumed"),
    ],
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    uninterrupted: Callable[..., Path], tmp_path: Path, choices: str, when: Kill, folder: str
) -> None:
    settings = (*CHOICES[choices], "callbacks.checkpointing.every_n_train_steps=3")
    whole = uninterrupted(*settings)
    last = kill(tmp_path / "killed", when, *SETTINGS, *settings)
    resumed = finish(tmp_path / folder, *SETTINGS, *settings, f"ckpt_path={last}")
    assert_same_training(resumed, whole, log=folder == "killed")
    expected, actual = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (whole, resumed))
    assert ("EMA" in actual["callbacks"]) == (choices == "modern")
    if choices == "modern":  # beside the average, which is in the state_dict, what the average is of
        average, trained = actual["state_dict"].values(), actual["callbacks"]["EMA"]["weights"]
        assert not all(map(torch.equal, average, trained))
        assert all(map(torch.equal, trained, expected["callbacks"]["EMA"]["weights"]))
    names = logged(resumed)[0]
    assert [name for name in names if name.startswith("lr")] == (["lr", "lr/adamw"] if choices == "modern" else ["lr"])


@pytest.mark.parametrize(
    ("settings", "kills"),
    [
        pytest.param(
            ("callbacks.checkpointing.every_n_train_steps=2", "trainer.val_check_interval=0.4"),
            [
                Kill("on_train_batch_end", 3),
                Kill("on_train_batch_start", 7),
                Kill("on_train_batch_end", 9),
                Kill("on_validation_batch_start", 14),
                Kill("on_train_batch_end", 17),
                Kill("on_train_batch_end", 19),
                Kill("on_validation_end", 20, after=True),
                Kill("on_train_epoch_end", 20),
                Kill("on_test_start", 20),
            ],
            id="several times in an epoch, in validations, and until after the last",
        ),
        pytest.param(
            (
                "trainer.accumulate_grad_batches=4",  # steps of 4, 4 and 2 batches
                "trainer.val_check_interval=5",  # once within a step
                "callbacks.checkpointing.every_n_train_steps=1",
                "callbacks=[default,ema]",
            ),
            [
                Kill("on_train_batch_end", 1, times=3, after=True),
                Kill("on_validation_end", 1, after=True),
                Kill("on_train_batch_end", 3, times=2),
                Kill("on_train_batch_end", 4, times=4, after=True),
            ],
            id="within accumulated steps",
        ),
        pytest.param(
            ("trainer.limit_train_batches=4", "callbacks.checkpointing.every_n_train_steps=3", "trainer.max_epochs=3"),
            [Kill("on_train_epoch_end", 4, after=True), Kill("on_train_batch_end", 7), Kill("on_train_batch_end", 12)],
            id="limited epochs",
        ),
        pytest.param(
            ("callbacks.checkpointing.every_minutes=1e-9", "trainer.max_steps=6"),
            [Kill("on_train_batch_end", 3), Kill("on_validation_batch_start", 6), Kill("on_train_epoch_end", 6)],
            id="steps that end within the first epoch, and checkpoints by the clock",
        ),
        pytest.param(
            ("trainer.max_steps=16", "trainer.check_val_every_n_epoch=3"),
            [Kill("on_train_batch_start", 12), Kill("on_validation_end", 16), Kill("on_test_end", 16)],
            id="steps that end where no validation was due",
        ),
        pytest.param(
            ("optimizer.lr=0", "callbacks.early_stopping.patience=1", "trainer.max_epochs=4"),
            [Kill("on_train_batch_end", 13), Kill("on_test_start", 20)],
            id="stopped early",
        ),
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    uninterrupted: Callable[..., Path], tmp_path: Path, settings: tuple[str, ...], kills: list[Kill]
) -> None:
    whole = uninterrupted(*settings)
    run, last = tmp_path / "killed", tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for when in kills:
        kill(run, when, *SETTINGS, *settings, *([f"ckpt_path={last}"] if last.exists() else []))
    finish(run, *SETTINGS, *settings, f"ckpt_path={last}")
    assert_same_training(run, whole)


def test_a_moved_run_that_is_resumed_elsewhere_has_the_best_checkpoint_so_far(tmp_path: Path) -> None:
    settings = (*SETTINGS, "optimizer.lr=0", "trainer.limit_train_batches=2")  # no later validation is better
    kill(tmp_path / "killed", Kill("on_train_batch_start", 2), *settings)
    (tmp_path / "killed").rename(tmp_path / "moved")
    best = read_checkpoint(tmp_path / "moved" / "checkpoints" / "best.ckpt")

    resumed = finish(tmp_path / "resumed", *settings, f"ckpt_path={tmp_path}/moved/checkpoints/last.ckpt")

    checkpoints = resumed / "checkpoints"
    assert_equal_tensors(read_checkpoint(checkpoints / "best.ckpt")["state_dict"], best["state_dict"])
    assert read_checkpoint(checkpoints / "best.ckpt")["global_step"] == 2
    [state] = [state for key, state in read_checkpoint(checkpoints / "last.ckpt")["callbacks"].items() if "Che" in key]
    assert state["best_model_path"] == str(checkpoints / "best.ckpt")
