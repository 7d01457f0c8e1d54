"""What holds for documents of any lengths in batches of any size, for any number of processes."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import strategies as st

from minillm.corpus.split import uniform
from minillm.data import Batch
from minillm.data.batching import EvaluationBatches, PackedRows, TrainingBatches, Windows
from minillm.data.subset import bounded, smallest_hashes
from minillm.tokenization import PAD
from tests.properties import EXAMPLES, check_for_any

LENGTHS = st.lists(st.integers(2, 70) | st.sampled_from([2, 3, 300]), min_size=1, max_size=25)
MAX_LENGTHS = st.integers(2, 80) | st.sampled_from([2, 32767, 32768, 65536])
EPOCHS = st.integers(0, 2**31)


class Numbered:
    """Documents in memory, in which each token's id is its number in all of them, from 1."""

    def __init__(self, lengths: list[int], page_ids: Iterable[int] = ()) -> None:
        self.lengths = np.array(lengths, dtype=np.int32)
        self.bytes = self.lengths.astype(np.int64) * 3
        self.unknown_bytes = self.lengths.astype(np.int64) % 5
        self.page_ids = np.array([*page_ids], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        end = self._ends[index]
        return np.arange(end - self.lengths[index] + 1, end + 1, dtype=np.int32)

    def targets(self) -> list[int]:
        """Return every token but the first of each document."""
        return [int(token) for index in range(len(self)) for token in self[index][1:]]


def check_each_target_once(documents: Numbered, batches: list[Batch]) -> None:
    """Check that batches hold each target once, after the token before it, and count the documents' bytes once."""
    seen: list[int] = []
    for batch in batches:
        filled = batch["targets"] != PAD
        assert (batch["inputs"][filled] == batch["targets"][filled] - 1).all()
        assert not batch["inputs"][~filled].any()
        seen += batch["targets"][filled].tolist()
    assert sorted(seen) == documents.targets()
    for name in "bytes", "unknown_bytes":
        assert sum(int(batch[name]) for batch in batches) == getattr(documents, name).sum()


@EXAMPLES
def test_windows_hold_each_target_once_over_all_processes(examples: int) -> None:
    def check(lengths: list[int], max_length: int, batch_size: int, world_size: int) -> None:
        documents = Numbered(lengths)
        windows = Windows(documents, max_length)
        assert windows.lengths.sum() == len(documents.targets())
        assert 1 <= windows.lengths.min() <= windows.lengths.max() <= max_length
        shares = [EvaluationBatches(windows.lengths, batch_size, rank, world_size) for rank in range(world_size)]
        batches = [windows.__getitems__(items) for share in shares for items in share]
        check_each_target_once(documents, batches)
        assert all(batch["inputs"].size(1) <= max_length and len(batch["inputs"]) <= batch_size for batch in batches)
        figures = np.random.default_rng(0).random(documents.lengths.sum() + 1)
        means = windows.mean(figures)
        expected = [figures[documents[n][1:]][k : k + max_length] for n in range(len(documents))
                    for k in range(0, documents.lengths[n] - 1, max_length)]  # fmt: skip
        assert np.allclose(means, [values.mean() for values in expected])

    check_for_any(examples, check, LENGTHS, MAX_LENGTHS, st.integers(1, 40), st.integers(1, 5))


@EXAMPLES
def test_packed_rows_hold_each_target_once_in_any_epoch_and_part_the_documents(examples: int) -> None:
    def check(lengths: list[int], max_length: int, batch_size: int, epoch: int) -> None:
        documents = Numbered(lengths)
        packed = PackedRows(documents, max_length, seed=1)
        packed.set_epoch(epoch)
        places = range(len(packed))
        batches = [packed.__getitems__(places[at : at + batch_size]) for at in places[::batch_size]]
        check_each_target_once(documents, batches)
        assert len(packed) == -(-len(documents.targets()) // max_length)
        for batch in batches:
            filled = batch["targets"] != PAD
            numbers = batch["documents"]
            assert ((numbers == -1) == ~filled).all()
            of_token = np.searchsorted(documents._ends, batch["targets"][filled].numpy())
            assert packed.order[numbers[filled].numpy()].tolist() == of_token.tolist()

    check_for_any(examples, check, LENGTHS, MAX_LENGTHS, st.integers(1, 4), EPOCHS)


@EXAMPLES
def test_training_batches_are_disjoint_over_processes_equally_many_and_go_on_anywhere(examples: int) -> None:
    def check(
        lengths: list[int], batch_size: int, seed: int, epoch: int, world_size: int, pool: int, start: int
    ) -> None:
        whole = -(-len(lengths) // batch_size)
        shares = []
        for rank in range(world_size):
            batches = TrainingBatches(np.array(lengths), batch_size, seed, rank, world_size, pool)
            batches.set_epoch(epoch)
            share = list(batches)
            assert len(share) == len(batches) == whole // world_size
            batches.start = start
            assert list(batches) == share[start:]
            shares.append(share)
        seen = [item for share in shares for batch in share for item in batch]
        assert set(seen) <= set(range(len(lengths)))
        assert len(seen) == len(set(seen))
        left_out = whole % world_size * batch_size
        assert len(seen) >= len(lengths) - left_out
        assert all(1 <= len(batch) <= batch_size for share in shares for batch in share)

    check_for_any(
        examples,
        check,
        st.lists(st.integers(1, 100), min_size=1, max_size=80),
        st.integers(1, 100),
        st.integers(0, 2**32 - 1),
        EPOCHS,
        st.integers(1, 6),
        st.integers(1, 60),
        st.integers(0, 90),
    )


PAGES = st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.integers(2, 70), min_size=1, max_size=40)


def chosen_of(pages: dict[int, int], max_tokens: int | None) -> set[int]:
    return set(bounded(Numbered([*pages.values()], pages), max_tokens).page_ids.tolist())


@EXAMPLES
def test_a_bounded_part_is_within_its_limit_in_any_order_and_growth_only_displaces(examples: int) -> None:
    def check(
        pages: dict[int, int], more: dict[int, int], max_tokens: int, shuffle: Callable[[list[int]], None]
    ) -> None:
        documents = Numbered([*pages.values()], pages)
        part = bounded(documents, max_tokens)
        tokens = int(part.lengths.sum()) - len(part)
        assert tokens <= max_tokens or len(part) == 1
        kept = [int(page) for page in documents.page_ids if page in set(part.page_ids.tolist())]
        assert part.page_ids.tolist() == kept  # in the split's order
        assert [part[n].tolist() for n in range(len(part))] == [
            documents[n].tolist() for n in range(len(pages)) if documents.page_ids[n] in kept
        ]
        left = [page for page in pages if page not in kept]
        if left:  # the next one has no room
            following = min(left, key=lambda page: uniform("evaluation", page))
            assert tokens + pages[following] - 1 > max_tokens
        order = list(pages)
        shuffle(order)
        assert chosen_of({page: pages[page] for page in order}, max_tokens) == set(kept)
        grown = {**more, **pages}
        assert chosen_of(grown, max_tokens) & pages.keys() <= set(kept)
        assert chosen_of(pages, None) == pages.keys()
        assert smallest_hashes(documents, sum(pages.values())) is None

    check_for_any(
        examples, check, PAGES, PAGES, st.integers(1, 1500), st.randoms(use_true_random=False).map(lambda r: r.shuffle)
    )


@pytest.mark.parametrize("max_length", [2, 32767, 32768])
def test_the_longest_window_counts_its_tokens_whatever_holds_the_number(max_length: int) -> None:
    documents = Numbered([32766, 32768, 32769, 40_000])
    windows = Windows(documents, max_length)
    assert windows.lengths.max() == max_length
    counts = Counter(windows.lengths.tolist())
    assert sum(length * times for length, times in counts.items()) == len(documents.targets())
