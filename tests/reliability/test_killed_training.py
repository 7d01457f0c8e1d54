"""A training that is killed again and again, wherever that is, ends as one that nobody disturbed, bit for bit."""

import functools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.checkpoint import read_checkpoint
from tests.reliability.kills import Cut, End, Ended, Kill, Sent, Touch, run_script
from tests.scripts.resuming import assert_same_training, output

# Small and in float32; ten batches per epoch, or nine packed ones.
SETTINGS = (
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=2",
    "data.num_articles=60",
    "data.vocab_size=400",
    "data.max_length=64",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "~callbacks.bleu_evaluation",
    "~callbacks.bias_evaluation",
    "~callbacks.text_samples",
    "evaluation=none",
)
CHOICES = {
    "accumulated": (  # steps of 3, 3 and 1 batches, validated once within a step
        "trainer.limit_train_batches=7",
        "trainer.accumulate_grad_batches=3",
        "trainer.val_check_interval=4",
        "callbacks.checkpointing.every_n_train_steps=1",
    ),
    "modern": (
        "model=minigpt_modern",
        "optimizer=muon",
        "scheduler=wsd",
        "callbacks=[default,ema]",
        "data.batching=packed",
        "data.num_workers=1",
        "callbacks.checkpointing.every_n_train_steps=2",
    ),
    "seldom kept": ("trainer.val_check_interval=0.5", "data.num_workers=1"),  # with nothing between the epochs' ends
}
CORES = 3  # with fewer, the training's process makes the batches
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
HOOKS = (
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_test_batch_start",
)
FILES = ("last.ckpt", "best.ckpt", "metrics.csv", ".*.tmp", "checkpoints", "config.yaml", "events.*")

Whole = Callable[[str], tuple[Path, float]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return the folder of a run that nothing interrupted, and the seconds that it took, once for each choice."""

    @functools.cache
    def run(choice: str) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp("runs") / "whole"
        ended = train(folder, choice)
        assert ended.status == 0, output(folder)
        return folder, ended.seconds

    return run


def train(run: Path, choice: str, end: End | None = None, by_checkpoint: bool = False) -> Ended:
    """Begin a run or go on with it, as a user would.

    Args:
        run: its folder.
        choice: its settings.
        end: when it is ended.
        by_checkpoint: it goes on with ckpt_path=..., not with resume=...
    """
    checkpoints = [path for name in ("last", "best") if (path := run / "checkpoints" / f"{name}.ckpt").exists()]
    arguments = [f"hydra.run.dir={run}", f"paths.data_dir={os.environ['MINILLM_DATA_DIR']}"]
    arguments += [*SETTINGS, *CHOICES[choice]]
    if checkpoints and by_checkpoint:
        arguments += [f"ckpt_path={checkpoints[0]}"]
    elif checkpoints:
        arguments = [f"resume={run}"]
    return run_script("train", run.parent, run.parent / f"{run.name}.txt", arguments, end, CORES)


def check_end(run: Path, expected: Path) -> None:
    """Check that a run that was interrupted is the same as one that was not."""
    assert_same_training(run, expected)
    assert [path for path in run.rglob("*") if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    ("choice", "ends"),
    [
        (
            "accumulated",
            [
                Touch("os.rename", "last.ckpt"),
                Cut(300_000),  # of the half million bytes of a checkpoint
                Touch("os.rename", "best.ckpt"),
                Kill("on_validation_batch_start", 3),
                Touch("open", "checkpoints", 2),  # right after a rename
                Kill("on_train_batch_end", 4, times=2),
                Kill("on_train_batch_start", 5),
                Kill("on_train_epoch_end", 6, after=True),
                Touch("os.rename", "*", 2),
                Kill("on_test_batch_start", 9),
            ],
        ),
        pytest.param(
            "modern",
            [
                Sent(signal.SIGKILL, 0.5),
                Kill("on_train_batch_end", 4),
                Cut(200_000),
                Kill("on_train_batch_start", 6),
                Sent(signal.SIGKILL, 0.8),
                Kill("on_train_epoch_end", 18),
            ],
            marks=pytest.mark.long,
        ),
        pytest.param(
            "seldom kept",
            [
                Kill("on_train_batch_end", 4),
                Touch("os.rename", "last.ckpt"),
                Kill("on_train_batch_end", 7),
                Kill("on_validation_end", 15, after=True),
            ],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_training_killed_at_the_worst_moments_ends_the_same(
    whole: Whole, tmp_path: Path, choice: str, ends: list[End]
) -> None:
    expected, _ = whole(choice)
    run = tmp_path / "run"
    for number, end in enumerate(ends):
        status = train(run, choice, end, by_checkpoint=number % 2 == 0).status
        assert status == (-signal.SIGXFSZ if isinstance(end, Cut) else -signal.SIGKILL), (end, status, output(run))
    ended = train(run, choice)
    assert ended.status == 0, output(run)
    check_end(run, expected)


def test_a_training_asked_to_stop_at_any_moment_says_so_in_one_line_and_ends_the_same(
    whole: Whole, tmp_path: Path
) -> None:
    stop_again_and_again(whole, tmp_path / "run", random.Random(0), 3)


@pytest.mark.long
@pytest.mark.parametrize("choice", CHOICES)
def test_a_training_in_a_storm_of_kills_ends_the_same(whole: Whole, tmp_path: Path, choice: str) -> None:
    expected, seconds = whole(choice)
    draw, counts = random.Random(choice), Counter[str]()
    while counts.total() < 20 or counts["finished"] == 0:
        run = tmp_path / f"run{counts['finished']}"
        for number in range(100):
            end = drawn(draw, run, seconds) if counts.total() - counts["finished"] < 20 else None
            ended = train(run, choice, end, by_checkpoint=number % 2 == 1)
            if ended.status == 0:
                break
            assert ended.status in (-signal.SIGKILL, -signal.SIGXFSZ), (end, ended, output(run))
            counts[str(end)] += 1
        check_end(run, expected)
        counts["finished"] += 1
    print(choice, dict(counts))


@pytest.mark.long
def test_a_training_in_a_storm_of_signals_ends_the_same(whole: Whole, tmp_path: Path) -> None:
    for seed in range(1, 4):
        stop_again_and_again(whole, tmp_path / f"run{seed}", random.Random(seed), 7)


def drawn(draw: random.Random, run: Path, seconds: float) -> End:
    """Draw when a run that takes so many seconds is killed."""
    last = run / "checkpoints" / "last.ckpt"
    step = read_checkpoint(last)["global_step"] if last.exists() else 0
    ends: list[End] = [
        Sent(signal.SIGKILL, draw.uniform(0.05, 0.8) * seconds),
        Kill(draw.choice(HOOKS), step + draw.randrange(4), draw.random() < 0.5, draw.randint(1, 2)),
        Touch(draw.choice(["os.rename", "open"]), draw.choice(FILES), draw.randint(1, 4)),
        Cut(draw.randrange(20_000, 450_000)),
    ]
    return draw.choice(ends)


def stop_again_and_again(whole: Whole, run: Path, draw: random.Random, times: int) -> None:
    """Ask a run to stop at moments drawn at random, and let it go on; check what it says and what becomes of it."""
    choice = "accumulated"
    expected, seconds = whole(choice)
    shown = run.parent / f"{run.name}.txt"
    for number in range(times):
        before = len(shown.read_text(encoding="utf-8")) if shown.exists() else 0
        sent = Sent(draw.choice(list(STATUS)), draw.uniform(0.02, 0.9) * seconds)
        ended = train(run, choice, sent, by_checkpoint=number % 2 == 1)
        text = shown.read_text(encoding="utf-8")[before:]
        assert ended.status in (0, STATUS[sent.number]), (sent, ended, text)
        assert [line.startswith("stopped: ") for line in text.splitlines()].count(True) == (ended.status != 0), text
        if ended.status == 0:
            break
    assert train(run, choice).status == 0, output(run)
    check_end(run, expected)
