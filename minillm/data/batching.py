"""From documents to batches.

A document is [BOS] t1 ... tn [EOS]; every token but [BOS] is predicted exactly once, from the tokens before it in its
window. There are two ways to fill a batch:

- windows: a document is cut every ``max_length`` tokens; windows of similar length share a batch and are padded to the
  longest.
- packed: documents are concatenated and cut into rows of exactly ``max_length``. ``documents`` numbers them, and
  attention stays within a document. The rest of a document that is cut is a document of its own in the next row.

A batch is a dict: ``inputs`` and ``targets`` (B, T) int64, padded with [PAD]; ``documents`` (B, T) int64, only if
packed; ``bytes`` and ``unknown_bytes``, int64 scalars: the sums over the documents that begin in the batch, so that
sums over a split are exact.
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


class EncodedDocuments(Protocol):
    """The token ids of documents: of a file (`EncodedFile`), of texts in memory (`EncodedTexts`), or a `Subset`."""

    page_ids: np.ndarray
    """(N,) int64: the identity of each article."""
    lengths: np.ndarray
    """(N,) tokens of each, with [BOS] and [EOS]."""
    bytes: np.ndarray
    """(N,) UTF-8 bytes of each."""
    unknown_bytes: np.ndarray
    """(N,) cost of the unknown words of each in bytes, see `minillm.tokenization.Encoded`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the token ids of a document, [BOS] first and [EOS] last."""


class Windows(Dataset[Batch]):
    """Documents in windows of at most ``max_length`` tokens; several indices give a batch.

    Args:
        documents: the encoded documents.
        max_length: tokens to predict in a window, at most.
    """

    def __init__(self, documents: EncodedDocuments, max_length: int) -> None:
        self.documents, self.max_length = documents, max_length
        # (D,) number of windows through each document; to save memory, nothing else is stored.
        self._ends: np.ndarray = np.cumsum(-(-(documents.lengths.astype(np.int64) - 1) // max_length))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens to predict in each window, in a small integer type; a new array each time."""
        lengths = np.full(len(self), self.max_length, dtype=np.int16 if self.max_length < 1 << 15 else np.int32)
        targets = self.documents.lengths.astype(np.int64) - 1
        lengths[self._ends[targets > 0] - 1] = (targets[targets > 0] - 1) % self.max_length + 1
        return lengths

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the windows as one batch, padded to the longest."""
        windows = np.asarray(indices, dtype=np.int64)
        documents = np.searchsorted(self._ends, windows, side="right")
        before = np.where(documents > 0, self._ends[documents - 1], 0)  # windows of earlier documents
        starts = (windows - before) * self.max_length
        lengths = np.minimum(self.documents.lengths[documents].astype(np.int64) - 1 - starts, self.max_length)
        inputs = np.full((len(windows), int(lengths.max())), PAD, dtype=np.int64)
        targets = inputs.copy()
        for row, (document, start, length) in enumerate(zip(documents, starts, lengths, strict=True)):
            tokens = self.documents[int(document)][start : start + length + 1]
            inputs[row, :length] = tokens[:-1]
            targets[row, :length] = tokens[1:]
        begins = documents[starts == 0]
        return {
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(targets),
            "bytes": torch.tensor(self.documents.bytes[begins].sum()),
            "unknown_bytes": torch.tensor(self.documents.unknown_bytes[begins].sum()),
        }

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a token's value over the targets of each window, (N,).

        Args:
            values: (V,), of each token of the vocabulary.
        """
        sums = np.zeros(len(self))
        window = 0
        for index in range(len(self.documents)):
            figures = values[self.documents[index][1:]]
            starts = np.arange(0, len(figures), self.max_length)
            sums[window : window + len(starts)] = np.add.reduceat(figures, starts)
            window += len(starts)
        return sums / self.lengths

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of the windows' values over each document.

        Args:
            values: (K, N), K values of each window.

        Returns:
            (K, D) float64.
        """
        documents = np.repeat(np.arange(len(self._ends)), np.diff(self._ends, prepend=0))
        return np.stack([np.bincount(documents, weights=row, minlength=len(self._ends)) for row in values])


class PackedRows(Dataset[Batch]):
    """Documents concatenated in a random order, drawn for each epoch, and cut into rows of ``max_length``.

    Args:
        documents: the encoded documents.
        max_length: tokens per row.
        seed: seed and epoch determine the order.
    """

    def __init__(self, documents: EncodedDocuments, max_length: int, seed: int) -> None:
        self.documents, self.max_length, self.seed = documents, max_length, seed
        targets = int(documents.lengths.sum()) - len(documents)
        self.lengths: np.ndarray = np.broadcast_to(np.int64(max_length), -(-targets // max_length))
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's order of documents."""
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.documents)).astype(np.int32)
        self.ends = np.cumsum(self.documents.lengths[self.order] - 1, dtype=np.int64)

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
                tokens = self.documents[int(self.order[place])]
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
            "bytes": torch.tensor(self.documents.bytes[starting].sum()),
            "unknown_bytes": torch.tensor(self.documents.unknown_bytes[starting].sum()),
        }

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a token's value over the targets of each row; see `Windows.mean`."""
        sums = np.zeros(len(self))
        for place, index in enumerate(self.order):
            figures = values[self.documents[int(index)][1:]]
            row, column = divmod(self._begin(place), self.max_length)
            starts = np.maximum(np.arange(-column, len(figures), self.max_length), 0)
            sums[row : row + len(starts)] += np.add.reduceat(figures, starts)
        counts = self.lengths.copy()
        counts[-1:] = (self.ends[-1:] - 1) % self.max_length + 1
        return sums / counts

    def _begin(self, place: int) -> int:
        """Return the number of targets before this place in the order."""
        return int(self.ends[place - 1]) if place else 0


class TrainingBatches(Sampler[list[int]]):
    """Batches of items of similar length, in an order that depends only on (seed, epoch).

    Items are shuffled and divided into pools of ``pool`` batches; a pool is sorted by length and cut into batches; then
    all batches are shuffled.

    All epochs have as many batches as the first, so that the number of steps is known. If the number of items changes
    (`minillm.data.augmentation`), an epoch with more items omits random batches, and one with fewer repeats some.

    Args:
        lengths: (N,) length of each item; can be replaced for an epoch.
        batch_size: items per batch; the last batch may have fewer.
        seed: seed and epoch determine the order.
        rank: this process's number.
        world_size: processes that share the batches; each gets the same number, so up to ``world_size - 1`` batches of
            an epoch are omitted, different ones each epoch.
        pool: batches sorted together: more means less padding and less randomness.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, pool: int = 50
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.rank, self.world_size = rank, world_size
        self.batches = -(-len(lengths) // batch_size) // world_size
        self.epoch = 0
        self.start = 0  # batches that an iteration skips, since training saw them before a resume

    @property
    def sampler(self) -> "TrainingBatches":
        """Itself: Lightning calls `set_epoch` of the ``sampler`` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
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
    """Batches with every item exactly once over all processes, the longest first.

    Args:
        lengths: (N,) length of each item.
        batch_size: items per batch.
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
    """A training loader that can continue in the middle of an epoch.

    Its iterator does nothing before the first batch is requested: Lightning creates it before it sets the epoch.

    Args:
        dataset: `Windows`, or a dataset with ``lengths`` that draws its items in ``set_epoch``.
        batches: the epoch's batches of indices.
        change: a function of a batch, the epoch and the batch's number that returns the batch to use; None: unchanged.
        done: returns the number of the epoch's batches that training has seen, which an iteration skips; None: 0.
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
        # With worker processes, PyTorch calls the sampler's __iter__ twice and uses the second iterator.
        self._batches.start = first
        batches = super().__iter__()
        self._batches.start = 0
        for number, batch in enumerate(batches, first):
            yield self._change(batch, epoch, number) if self._change else batch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing, since ``done`` counts; without this method Lightning warns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def evaluation_loader(dataset: Windows, batches: EvaluationBatches, **options: Any) -> DataLoader[Batch]:
    """Return a loader for evaluation: every token once, in a fixed order."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_is, **options)


def begin_worker(worker: int) -> None:
    """Make a data loader's worker ignore signals that are for the training; for ``worker_init_fn``.

    Slurm and terminals signal every process of a job, but the training decides what to do and still needs batches for
    its current step. A worker ends only on a SIGTERM from the training process, which Python sends at its end. (macOS
    does not say who sent a signal; there any SIGTERM ends the worker.)

    PyTorch's workers end when their parent changes. If the training is killed before a worker notes its parent, the
    worker would stay for ever; so it exits here.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()
    is_child = multiprocessing.get_start_method() != "forkserver"  # with it, the server is the parent
    if is_child and os.getppid() != parent.pid:
        os._exit(1)


def _obey(sender: int) -> None:
    """Exit when the given process sends SIGTERM, which all threads block."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)


def _as_is(batch: Any) -> Any:  # the dataset returns whole batches
    return batch
