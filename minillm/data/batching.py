"""From documents to batches.

Each document is [BOS] t1 ... tn [EOS]; every token but [BOS] is predicted exactly once, from what stands before it in
its window. Two ways to fill a batch:

- windows: a document is cut every ``max_length`` tokens; windows of similar length share a batch, padded to its
  longest.
- packed: documents stand end to end in rows of exactly ``max_length``; ``documents`` numbers them, for the network to
  keep their attention apart. A document cut by the row's end goes on in the next row as if it began there.

A batch is a dict: ``inputs`` and ``targets`` (B, T) int64, padded with [PAD]; ``documents`` (B, T) int64, packed only;
``bytes`` and ``unknown_bytes``, int64 scalars: those of the documents that begin in the batch, so that sums over a
split are exact.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from minillm.tokenization import PAD

Batch = dict[str, Tensor]


class Documents(Protocol):
    """Encoded documents: an `EncodedSplit` on disk, or texts in memory."""

    lengths: np.ndarray
    """(N,) tokens of each, [BOS] and [EOS] among them."""
    bytes: np.ndarray
    """(N,) UTF-8 bytes of each."""
    unknown_bytes: np.ndarray
    """(N,) what the [UNK] tokens of each hide, see `minillm.tokenization.Encoded`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the ids of one, [BOS] first and [EOS] last."""


class Windows(Dataset[Batch]):
    """A split's documents in windows of at most ``max_length`` tokens; asked for many at once, it returns a batch.

    Args:
        split: the encoded documents.
        max_length: longest window, in tokens to predict.
    """

    def __init__(self, split: Documents, max_length: int) -> None:
        self.split, self.max_length = split, max_length
        # (D,) how many windows there are up to each document's end: all else is computed where it is asked for.
        self._ends: np.ndarray = np.cumsum(-(-(split.lengths.astype(np.int64) - 1) // max_length))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens to predict in each window, as small integers; a new array each time."""
        lengths = np.full(len(self), self.max_length, dtype=np.int16 if self.max_length < 1 << 15 else np.int32)
        targets = self.split.lengths.astype(np.int64) - 1
        lengths[self._ends[targets > 0] - 1] = (targets[targets > 0] - 1) % self.max_length + 1
        return lengths

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the windows as one batch, padded to the longest."""
        places = np.asarray(indices, dtype=np.int64)
        documents = np.searchsorted(self._ends, places, side="right")
        before = np.where(documents > 0, self._ends[documents - 1], 0)  # windows of the documents before
        starts = (places - before) * self.max_length
        lengths = np.minimum(self.split.lengths[documents].astype(np.int64) - 1 - starts, self.max_length)
        inputs = np.full((len(places), int(lengths.max())), PAD, dtype=np.int64)
        targets = inputs.copy()
        for row, (document, start, length) in enumerate(zip(documents, starts, lengths, strict=True)):
            tokens = self.split[int(document)][start : start + length + 1]
            inputs[row, :length] = tokens[:-1]
            targets[row, :length] = tokens[1:]
        begins = documents[starts == 0]
        return {
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(targets),
            "bytes": torch.tensor(self.split.bytes[begins].sum()),
            "unknown_bytes": torch.tensor(self.split.unknown_bytes[begins].sum()),
        }

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a figure of each token over the targets of each window.

        Args:
            values: (V,).
        """
        sums = np.zeros(len(self))
        place = 0
        for index in range(len(self.split)):
            figures = values[self.split[index][1:]]
            starts = np.arange(0, len(figures), self.max_length)
            sums[place : place + len(starts)] = np.add.reduceat(figures, starts)
            place += len(starts)
        return sums / self.lengths

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of figures of each window over the windows of each document.

        Args:
            values: (K, N).

        Returns:
            (K, D) float64.
        """
        documents = np.repeat(np.arange(len(self._ends)), np.diff(self._ends, prepend=0))
        return np.stack([np.bincount(documents, weights=row, minlength=len(self._ends)) for row in values])


class PackedRows(Dataset[Batch]):
    """A split's documents end to end, in an order drawn anew each epoch, cut into rows of ``max_length``.

    Args:
        split: the encoded documents.
        max_length: tokens a row.
        seed: with the epoch it decides the order.
    """

    def __init__(self, split: Documents, max_length: int, seed: int) -> None:
        self.split, self.max_length, self.seed = split, max_length, seed
        targets = int(split.lengths.sum()) - len(split)
        self.lengths: np.ndarray = np.broadcast_to(np.int64(max_length), -(-targets // max_length))
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's order of documents."""
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.split)).astype(np.int32)
        self.ends = np.cumsum(self.split.lengths[self.order] - 1, dtype=np.int64)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the rows as one batch."""
        inputs = np.full((len(indices), self.max_length), PAD, dtype=np.int64)
        targets = inputs.copy()
        documents = np.full_like(inputs, -1)
        starting: list[int] = []
        for row, index in enumerate(indices):
            first, last = index * self.max_length, (index + 1) * self.max_length
            place = int(np.searchsorted(self.ends, first, side="right"))
            while place < len(self.order) and (begin := self._begin(place)) < last:
                tokens = self.split[int(self.order[place])]
                start, end = max(first - begin, 0), min(last, self.ends[place]) - begin
                columns = slice(begin + start - first, begin + end - first)
                inputs[row, columns] = tokens[start:end]
                targets[row, columns] = tokens[start + 1 : end + 1]
                documents[row, columns] = place
                if start == 0:
                    starting.append(int(self.order[place]))
                place += 1
        return {
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(targets),
            "documents": torch.from_numpy(documents),
            "bytes": torch.tensor(self.split.bytes[starting].sum()),
            "unknown_bytes": torch.tensor(self.split.unknown_bytes[starting].sum()),
        }

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a figure of each token over the targets of each row; see `Windows.mean`."""
        sums = np.zeros(len(self))
        for place, index in enumerate(self.order):
            figures = values[self.split[int(index)][1:]]
            row, column = divmod(self._begin(place), self.max_length)
            starts = np.maximum(np.arange(-column, len(figures), self.max_length), 0)
            sums[row : row + len(starts)] += np.add.reduceat(figures, starts)
        counts = self.lengths.copy()
        counts[-1:] = (self.ends[-1:] - 1) % self.max_length + 1
        return sums / counts

    def _begin(self, place: int) -> int:
        """Return how many targets the documents before this place of the order have."""
        return int(self.ends[place - 1]) if place else 0


class TrainingBatches(Sampler[list[int]]):
    """Batches of items of similar length, in an order that depends on (seed, epoch) alone.

    The shuffled items are taken ``pool`` batches at a time and sorted by length within; then the batches are shuffled.

    Each epoch has as many batches as the first one's items make, so that a schedule knows its steps. Where epochs have
    different items (`minillm.data.augmentation`), one with more leaves some batches out by chance, one with fewer has
    some twice.

    Args:
        lengths: (N,) length of each item; may be set anew for an epoch.
        batch_size: items a batch; the last one may have fewer.
        seed: with the epoch it decides the order.
        rank: this process's number.
        world_size: processes that share the batches; each gets equally many, so up to ``world_size - 1`` of an epoch's
            batches, other ones each epoch, are left out.
        pool: batches sorted together: more means less padding and less chance.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, pool: int = 50
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.rank, self.world_size = rank, world_size
        self.batches = -(-len(lengths) // batch_size) // world_size
        self.epoch = 0
        self.start = 0  # how many of its batches an iteration leaves out: they were seen before a resume

    @property
    def sampler(self) -> "TrainingBatches":
        """Itself: Lightning tells the epoch to the ``sampler`` of a batch sampler, and not to the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        items = random.permutation(len(self.lengths))
        size = self.batch_size * self.pool
        pools = [items[start : start + size] for start in range(0, len(items), size)]
        by_length = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]
        order = np.resize(random.permutation(len(batches)), len(self) * self.world_size)
        mine = order[self.rank :: self.world_size][self.start :]
        return (batches[index].tolist() for index in mine)


class EvaluationBatches(Sampler[list[int]]):
    """Every item exactly once over all processes, the longest first.

    Args:
        lengths: (N,) length of each item.
        batch_size: items a batch.
        rank: this process's number.
        world_size: processes that share the items.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.items = np.argsort(-lengths, kind="stable")[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.items), self.batch_size):
            yield self.items[start : start + self.batch_size].tolist()


class ResumableLoader(DataLoader[Batch]):
    """A training loader that goes on in the middle of an epoch.

    Its iterator does nothing before its first batch is asked for: Lightning makes it before it tells the epoch.

    Args:
        dataset: what the indices mean: `Windows`, or what has ``lengths`` and draws its items in ``set_epoch``.
        batches: the epoch's batches of indices.
        change: what is done to a batch, given the epoch and the batch's number; None: nothing.
        done: returns how many of the epoch's batches the training has had when an iteration begins, which leaves
            them out; None: none.
        options: further arguments of DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        batches: TrainingBatches,
        change: Callable[[Batch, int, int], Batch] | None = None,
        done: Callable[[], int] | None = None,
        **options: Any,
    ) -> None:
        self._batches = batches
        self._change = change
        self._done = done
        super().__init__(dataset, batch_sampler=batches, collate_fn=_as_is, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        first = self._done() if self._done else 0
        epoch = self._batches.epoch
        if not isinstance(self.dataset, Windows):
            self.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            self._batches.lengths = self.dataset.lengths  # type: ignore[attr-defined]
        # With worker processes PyTorch asks the sampler for an iterator twice, and uses the second one.
        self._batches.start = first
        batches = super().__iter__()
        self._batches.start = 0
        for number, batch in enumerate(batches, first):
            yield self._change(batch, epoch, number) if self._change else batch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: ``done`` counts. Lightning warns of a loader that has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def evaluation_loader(dataset: Windows, batches: EvaluationBatches, **options: Any) -> DataLoader[Batch]:
    """Return a loader over a split for figures: every token once, no randomness."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_is, **options)


def begin_worker(worker: int) -> None:
    """Let a process that makes batches live as long as the training does; for ``worker_init_fn``.

    Slurm and terminals send a signal to every process of a job: what it means is the training's to decide, which still
    needs batches for the step that it is in. Only from the training itself is SIGTERM obeyed: Python sends it at its
    end, and waits. (macOS cannot tell who sent a signal; there it ends the process.)

    PyTorch's worker ends once it has another parent than at its start; if the training is killed before that start, the
    worker would stay for good.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()
    is_child = multiprocessing.get_start_method() != "forkserver"  # which stands between the two
    if is_child and os.getppid() != parent.pid:
        os._exit(1)


def _obey(sender: int) -> None:
    """End this process when one process sends SIGTERM, which all threads block."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)


def _as_is(batch: Any) -> Any:  # the dataset has made the batch already
    return batch
