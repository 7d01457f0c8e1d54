import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from minillm.data import Batch, EncodedFile, TextDataModule
from minillm.data.batching import (
    EvaluationBatches,
    PackedRows,
    ResumableLoader,
    TrainingBatches,
    Windows,
    begin_worker,
    evaluation_loader,
)
from minillm.tokenization import BOS, EOS, PAD, UNK

MakeSplit = Callable[..., EncodedFile]
# Documents of 0 to 40 words: shorter than a window, exactly one, just over, many; and one without any word.
LENGTHS = [3, 0, 7, 8, 9, 15, 16, 17, 40, 1, 24]
TEXTS = [" ".join(f"d{n}w{word}" for word in range(length)) for n, length in enumerate(LENGTHS)]


@pytest.fixture
def split(make_split: MakeSplit) -> EncodedFile:
    return make_split(TEXTS)


def rows(batches: Iterable[Batch]) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and targets of each row, without the padding."""
    found = []
    for batch in batches:
        for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
            length = int((targets != PAD).sum())
            assert not inputs[length:].any()
            assert not targets[length:].any()
            found.append((inputs[:length].tolist(), targets[:length].tolist()))
    return found


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("max_length", [2, 8, 100])
def test_windows_put_end_to_end_are_the_documents_and_each_token_is_predicted_once(
    split: EncodedFile, max_length: int
) -> None:
    windows = Windows(split, max_length)
    pieces = rows([windows.__getitems__([index]) for index in range(len(windows))])
    documents: list[list[int]] = []
    for inputs, targets in pieces:
        assert 1 <= len(inputs) <= max_length
        assert inputs[1:] == targets[:-1]
        if inputs[0] == BOS:
            documents.append([BOS])
        assert inputs[0] == documents[-1][-1]
        documents[-1] += targets
    assert documents == [ids.tolist() for ids in split]
    assert sum(len(targets) for _, targets in pieces) == split.num_targets == sum(LENGTHS) + len(LENGTHS)


@pytest.mark.parametrize("max_length", [2, 8, 100])
@pytest.mark.parametrize("epoch", [0, 1])
def test_packed_rows_put_end_to_end_are_the_documents_in_the_epochs_order(
    split: EncodedFile, max_length: int, epoch: int
) -> None:
    packed = PackedRows(split, max_length, seed=3)
    packed.set_epoch(epoch)
    batch = packed.__getitems__(range(len(packed)))
    inputs, targets, numbers = (batch[name].flatten().tolist() for name in ("inputs", "targets", "documents"))
    assert batch["inputs"].shape == (len(packed), max_length)
    found = []
    for place, index in enumerate(packed.order):
        columns = [column for column, number in enumerate(numbers) if number == place]
        assert columns == list(range(columns[0], columns[-1] + 1))
        assert [inputs[column] for column in columns] == split[index][:-1].tolist()
        assert [targets[column] for column in columns] == split[index][1:].tolist()
        found += columns
    assert found == list(range(split.num_targets))  # nothing but padding is left, at the end
    assert set(targets[split.num_targets :]) <= {PAD}
    assert set(numbers[split.num_targets :]) <= {-1}
    assert sorted(packed.order) == list(range(len(split)))


def test_packing_orders_the_documents_anew_each_epoch_by_seed_and_epoch_alone(split: EncodedFile) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        packed = PackedRows(split, 8, seed)
        packed.set_epoch(epoch)
        return packed.order.tolist()

    np.random.default_rng(0).random()
    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_bytes_and_what_unknown_words_hide_are_counted_once_whatever_the_batching(make_split: MakeSplit) -> None:
    split = make_split(TEXTS, known=TEXTS[::2])
    size = sum(len(text.encode()) for text in TEXTS)
    unknown = sum(len(word) + 1 for text in TEXTS[1::2] for word in text.split())
    for max_length in 2, 8, 100:
        for dataset in Windows(split, max_length), PackedRows(split, max_length, seed=0):
            for batch_size in 1, 3:
                batches = TrainingBatches(dataset.lengths, batch_size, seed=5)
                loaded = list(ResumableLoader(dataset, batches))
                assert sum(int(batch["bytes"]) for batch in loaded) == size
                assert sum(int(batch["unknown_bytes"]) for batch in loaded) == unknown
                targets = sum(int((batch["targets"] != PAD).sum()) for batch in loaded)
                assert targets == split.num_targets
                assert sum(int((batch["targets"] == UNK).sum()) for batch in loaded) == sum(LENGTHS[1::2])


def test_the_order_of_training_batches_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 500)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = TrainingBatches(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = batches(0, 4)
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert batches(0, 4) == first
    assert batches(0, 5) != first
    assert batches(1, 4) != first


def test_training_batches_hold_each_item_once_and_lengths_that_are_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 1001)
    batches = list(TrainingBatches(lengths, 8, seed=0))
    assert sorted(item for batch in batches for item in batch) == list(range(1001))
    assert sorted(map(len, batches)) == [1] + [8] * 125
    padding = sum(lengths[batch].max() * len(batch) for batch in batches) / lengths.sum() - 1
    at_random = sum(lengths[n : n + 8].max() * 8 for n in range(0, 1000, 8)) / lengths.sum() - 1
    assert padding < 0.06 < 0.5 < at_random
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_processes_share_an_epochs_batches_without_overlap(world_size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 90)  # 12 batches
    whole = list(TrainingBatches(lengths, 8, seed=0))
    shares = [TrainingBatches(lengths, 8, 0, rank, world_size) for rank in range(world_size)]
    parts = [list(share) for share in shares]
    assert {len(part) for part in parts} == {12 // world_size} == {len(share) for share in shares}
    assert [batch for step in zip(*parts, strict=True) for batch in step] == whole


def test_batches_that_cannot_be_shared_out_evenly_are_others_each_epoch() -> None:
    lengths = np.full(88, 5)  # 11 batches for 4 processes: 3 are left out
    left_out = set()
    for epoch in range(6):
        shares = [TrainingBatches(lengths, 8, 0, rank, 4) for rank in range(4)]
        for share in shares:
            share.set_epoch(epoch)
        seen = [item for share in shares for batch in share for item in batch]
        assert len(seen) == len(set(seen)) == 64
        left_out.add(frozenset(range(88)) - frozenset(seen))
    assert len(left_out) == 6


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_reads_each_item_once_over_all_processes_the_longest_first(world_size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 101)
    shares = [EvaluationBatches(lengths, 8, rank, world_size) for rank in range(world_size)]
    for share in shares:
        batches = list(share)
        assert len(batches) == len(share)
        assert all(lengths[a].min() >= lengths[b].max() for a, b in pairwise(batches))
    assert sorted(item for share in shares for batch in share for item in batch) == list(range(101))


def a_loader(split: EncodedFile, kind: str, epoch: int = 1, **options: Any) -> ResumableLoader:
    dataset = Windows(split, 8) if kind == "windows" else PackedRows(split, 8, seed=0)
    batches = TrainingBatches(dataset.lengths, 3, seed=0)
    batches.set_epoch(epoch)
    return ResumableLoader(dataset, batches, **options)


@pytest.mark.parametrize("kind", ["windows", "packed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(split: EncodedFile, kind: str, workers: int) -> None:
    whole = list(a_loader(split, kind, num_workers=workers))
    done = 0
    resumed = a_loader(split, kind, num_workers=workers, done=lambda: done)
    for done in 1, len(whole) - 1, len(whole), 0:  # after a resume, and then a whole epoch
        assert same(resumed, whole[done:])


def test_an_epochs_number_may_be_told_after_the_iterator_is_made(split: EncodedFile) -> None:
    for kind in "windows", "packed":
        loader = a_loader(split, kind, epoch=0)
        iterator = iter(loader)
        loader.batch_sampler.set_epoch(1)  # type: ignore[union-attr]
        assert same(iterator, a_loader(split, kind, epoch=1))
        assert not same(a_loader(split, kind, epoch=0), a_loader(split, kind, epoch=1))


def test_worker_processes_make_the_same_batches(split: EncodedFile) -> None:
    windows = Windows(split, 8)
    batches = EvaluationBatches(windows.lengths, 3)
    assert same(evaluation_loader(windows, batches, num_workers=2), evaluation_loader(windows, batches))
    spawned = evaluation_loader(windows, batches, num_workers=1, multiprocessing_context="spawn")
    assert same(spawned, evaluation_loader(windows, batches))


def test_worker_processes_outlive_a_signal_that_is_meant_for_the_training(split: EncodedFile) -> None:
    batches = TrainingBatches(Windows(split, 5).lengths, batch_size=1, seed=1)
    loader = ResumableLoader(Windows(split, 5), batches, num_workers=1, worker_init_fn=begin_worker)
    iterator = iter(loader)
    next(iterator)
    for worker in multiprocessing.active_children():
        for kind in ("TERM", "USR1"):
            subprocess.run(["kill", f"-{kind}", str(worker.pid)], check=True)
    assert len(list(iterator)) == len(batches) - 1


def test_batching_does_not_touch_the_global_random_state(data: TextDataModule) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("batching", ["dynamic", "packed"])
def test_a_real_epoch_trains_on_every_token_of_the_split_once(
    make_data: Callable[..., TextDataModule], batching: str
) -> None:
    data = make_data(batching=batching)
    data.prepare_data()
    data.setup()
    split = data.splits["train"]
    expected = np.bincount(np.concatenate([ids[1:] for ids in split]), minlength=400)
    seen = np.zeros(400, dtype=int)
    for batch in data.train_dataloader():
        targets = batch["targets"].numpy()
        seen += np.bincount(targets[targets != PAD], minlength=400)
    assert seen.tolist() == expected.tolist()
    assert seen[EOS] == len(split)


def test_a_program_that_is_interrupted_while_workers_start_does_not_wait_for_them() -> None:
    program = """
import multiprocessing, sys, time
from minillm.data.batching import begin_worker

def work(begun):
    begin_worker(0)
    begun.set()
    time.sleep(60)

begun = multiprocessing.Event()
multiprocessing.Process(target=work, args=(begun,), daemon=True).start()
begun.wait()
raise SystemExit(130)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=40).returncode == 130
