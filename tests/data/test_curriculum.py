from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from minillm.data import Batch, Curriculum, EncodedFile, TextDataModule
from minillm.data.batching import PackedRows, ResumableLoader, TrainingBatches, Windows
from minillm.data.curriculum import EasiestFirst, Pace, in_pieces, unigram_costs
from minillm.errors import SettingError
from minillm.tokenization import PAD

MakeData = Callable[..., TextDataModule]
WARMUP = 40


def loader_of(make_data: MakeData, batching: str, epoch: int = 0, **settings: Any) -> ResumableLoader:
    data = make_data(batching=batching, **settings)
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return loader


def targets(batch: Batch) -> list[int]:
    return sorted(batch["targets"][batch["targets"] != PAD].tolist())


@pytest.mark.parametrize("batching", ["dynamic", "packed"])
def test_by_length_contexts_grow_and_every_batch_keeps_its_tokens(make_data: MakeData, batching: str) -> None:
    lengths = []
    for epoch in range(2):
        plain = loader_of(make_data, batching, epoch)
        growing = loader_of(make_data, batching, epoch, curriculum=Curriculum("length", warmup=WARMUP, start=0.125))
        for number, (whole, cut) in enumerate(zip(plain, growing, strict=True), epoch * len(plain)):
            allowed = 8 + 56 * min(1, number / WARMUP)
            assert cut["inputs"].size(1) <= round(allowed)
            assert targets(cut) == targets(whole)
            assert cut["bytes"] == whole["bytes"]
            assert (cut["targets"] != PAD).any(dim=1).all()
            if number >= WARMUP:
                assert torch.equal(cut["inputs"], whole["inputs"])
            if whole["inputs"].size(1) == 64:
                lengths.append(cut["inputs"].size(1))
    assert lengths == sorted(lengths)
    assert {8, 16, 32, 64} <= set(lengths)


def test_pieces_of_a_row_are_equal_and_in_order() -> None:
    row = torch.arange(1, 13).reshape(2, 6)
    batch = {"inputs": row, "targets": row + 100, "documents": row // 4, "bytes": torch.tensor(7)}
    batch["targets"][1, 3:] = PAD
    assert in_pieces(batch, 6) is batch
    cut = in_pieces(batch, 5)
    assert cut["inputs"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]  # the fourth piece has no target
    assert cut["targets"].tolist() == [[101, 102, 103], [104, 105, 106], [107, 108, 109]]
    assert cut["documents"].tolist() == [[0, 0, 0], [1, 1, 1], [1, 2, 2]]
    assert cut["bytes"] == 7
    assert in_pieces(batch, 4)["inputs"].tolist() == cut["inputs"].tolist()
    assert in_pieces({name: batch[name] for name in ("inputs", "targets")}, 5)["inputs"].tolist()[0] == [1, 2, 3]
    five = {name: batch[name][:, :5] for name in ("inputs", "targets", "documents")}
    assert in_pieces(five, 4)["inputs"].tolist() == [[1, 2, 3], [4, 5, 0], [7, 8, 9]]
    assert in_pieces(five, 4)["documents"].tolist()[1] == [1, 1, -1]


@pytest.mark.parametrize("make", [lambda split: Windows(split, 8), lambda split: PackedRows(split, 8, seed=1)])
def test_difficulty_is_the_mean_unigram_cross_entropy_of_the_targets(
    data: TextDataModule, make: Callable[[EncodedFile], Windows | PackedRows]
) -> None:
    split = data.splits["train"]
    counts = np.bincount(np.concatenate([ids[1:] for ids in split]), minlength=400) + 1
    costs = unigram_costs(split, 400)
    np.testing.assert_allclose(costs, -np.log(counts / counts.sum()))
    items = make(split)
    difficulty = items.mean(costs)
    assert len(difficulty) == len(items)
    for index in 0, 1, 17, len(items) - 1:
        found = items.__getitems__([index])["targets"].numpy()
        assert difficulty[index] == pytest.approx(costs[found[found != PAD]].mean())


@pytest.mark.parametrize("batching", ["dynamic", "packed"])
def test_by_difficulty_batches_come_from_the_easiest_share_until_all_is_there(
    make_data: MakeData, batching: str
) -> None:
    curriculum = Curriculum("difficulty", warmup=WARMUP, start=0.2)
    hardest: list[float] = []
    for epoch in range(2):
        loader = loader_of(make_data, batching, epoch, curriculum=curriculum)
        batches = loader.batch_sampler
        assert isinstance(batches, EasiestFirst)
        list(zip(loader, range(1), strict=False))  # the epoch's rows are drawn with its first batch
        difficulty = batches.difficulty()
        ranks = np.argsort(np.argsort(difficulty, kind="stable"))
        plain = TrainingBatches(batches.lengths, batches.batch_size, batches.seed)
        plain.set_epoch(epoch)
        pairs = zip(batches, plain, strict=True)
        for number, (items, ordinary) in enumerate(pairs, epoch * len(plain)):
            assert len(set(items)) == len(items)
            if number >= WARMUP:
                assert items == ordinary
                continue
            competence = (0.2**2 + (1 - 0.2**2) * number / WARMUP) ** 0.5
            assert ranks[items].max() < max(8, round(competence * len(ranks)))
            hardest.append(float(difficulty[items].mean()))
    assert np.mean(hardest[:10]) < np.mean(hardest[10:20]) < np.mean(hardest[-10:])


def test_every_item_of_the_easiest_is_drawn_as_often() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 100)
    pace = Pace(Curriculum("difficulty", warmup=1e9, start=0.4), per_epoch=25, total=None)
    counts = np.zeros(100)
    for epoch in range(400):
        batches = EasiestFirst(lambda: np.arange(100.0), pace, lengths, 4, 0)
        batches.set_epoch(epoch)
        for items in batches:
            counts[items] += 1
    assert counts[40:].sum() == 0
    assert abs(counts[:40] - 1000).max() < 5 * 1000**0.5
    padded = sum(lengths[items].max() * 4 for items in batches) / sum(lengths[items].sum() for items in batches)
    assert padded < 1.4


def test_processes_draw_batches_of_their_own() -> None:
    pace = Pace(Curriculum("difficulty", warmup=1e9), per_epoch=10, total=None)
    shares = [EasiestFirst(lambda: np.arange(80.0), pace, np.full(80, 5), 4, 0, rank, 2) for rank in range(2)]
    first, second = (list(share) for share in shares)
    assert len(first) == len(second) == 10
    assert first != second


@pytest.mark.parametrize(
    ("warmup", "total", "duration"), [(0.5, 40, 20), (0, None, 0), (7, None, 7), (1, 40, 1), (0.25, 40, 10)]
)
def test_the_warmup_is_a_share_of_the_training_or_batches(warmup: float, total: int | None, duration: int) -> None:
    pace = Pace(Curriculum("length", warmup, start=0.1), per_epoch=10, total=total)
    shares = [pace.share(epoch, batch) for epoch in range(4) for batch in range(10)]
    assert shares.index(1.0) == duration
    assert all(a < b for a, b in pairwise(shares[: duration + 1]))


def test_a_training_knows_its_batches(make_data: MakeData) -> None:
    class Trainer:
        global_rank, world_size = 0, 1
        max_epochs, max_steps, accumulate_grad_batches, limit_train_batches = 4, -1, 2, 1.0

    data = make_data()
    data.trainer = trainer = Trainer()  # type: ignore[assignment]
    found = []
    for settings in {}, {"limit_train_batches": 7}, {"limit_train_batches": 0.5}, {"max_steps": 5}, {"max_epochs": -1}:
        for name, value in {**settings}.items():
            setattr(trainer, name, value)
        found.append(data._training_batches(20))
        trainer = data.trainer = Trainer()  # type: ignore[assignment]
    assert found == [(20, 80), (7, 28), (10, 40), (20, 10), (20, None)]


def test_a_share_of_a_training_without_an_end_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^data.curriculum.warmup=0.3: is a share of a training without an end"):
        Pace(Curriculum("length"), 10, None)
