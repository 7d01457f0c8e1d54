"""Curriculum learning: easy data first, then gradually all."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from minillm.data.batching import Batch, EncodedDocuments, TrainingBatches
from minillm.errors import SettingError
from minillm.parallel import batches
from minillm.tokenization import PAD

DRAW = 3  # part of the generator's seed, after seed and epoch; see `minillm.data.augmentation`
PER_COUNT = 500  # documents whose tokens are counted together, since each count has the vocabulary's length
CANDIDATES = 8  # batches drawn and sorted by length to choose one from: more means less padding


@dataclass(frozen=True)
class Curriculum:
    """A curriculum: the data that training starts with, and how it grows.

    - ``length``: short rows first (Li et al., "The Stability-Efficiency Dilemma", 2022). Each row is cut into equal
      pieces, which become rows: (B, T) becomes (2 B, T / 2), so a batch keeps its tokens, and only their context is
      shorter. The maximum length of a piece grows linearly.
    - ``difficulty``: easy text first (Platanios et al., "Competence-based Curriculum Learning", 2019). Batches are
      drawn from the easiest windows (or packed rows): those with the lowest mean unigram cross-entropy per token. Their
      share grows with the square root of time. After the warmup, each epoch has each window once.

    Args:
        by: the measure of easiness; None: no curriculum.
        warmup: duration of the growth: a share of the training, under 1; or a number of batches, from 1 on.
        start: the initial share of the length, or of the windows.

    Raises:
        SettingError: a value outside its range.
    """

    by: Literal["length", "difficulty"] | None = None
    warmup: float = 0.3
    start: float = 0.1

    def __post_init__(self) -> None:
        if self.by not in (None, "length", "difficulty"):
            raise SettingError("by", self.by, "must be length, difficulty, or null for none")
        if self.warmup < 0:
            raise SettingError("warmup", self.warmup, "must be a share of the training, such as 0.3, or batches")
        if not 0 < self.start <= 1:
            raise SettingError("start", self.start, "must be over 0 and at most 1, such as 0.1")

    def share(self, batch: int, duration: int) -> float:
        """Return the share of the length, or of the windows, at a batch.

        >>> [round(Curriculum("length", start=0.2).share(batch, 4), 2) for batch in range(6)]
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
        >>> [round(Curriculum("difficulty", start=0.2).share(batch, 4), 2) for batch in range(6)]
        [0.2, 0.53, 0.72, 0.87, 1.0, 1.0]

        Args:
            batch: its number in the whole training, from 0.
            duration: batches of the warmup.
        """
        if batch >= duration:
            return 1.0
        if self.by == "difficulty":
            return math.sqrt(self.start**2 + (1 - self.start**2) * batch / duration)
        return self.start + (1 - self.start) * batch / duration


@dataclass(frozen=True)
class Pace:
    """A curriculum's progress during a training.

    Args:
        curriculum: the curriculum.
        per_epoch: batches per epoch.
        total: batches of the whole training; None: unlimited.
        done: returns the progress, 0 to 1, towards a limit of time or tokens; None: there is no such limit.

    Raises:
        SettingError: ``warmup`` is a share, but the training has no end.
    """

    curriculum: Curriculum
    per_epoch: int
    total: int | None
    done: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if self.total is None and self.done is None and 0 < self.curriculum.warmup < 1:
            advice = "is a share of a training without an end; set trainer.max_epochs, or batches, such as 1000"
            raise SettingError("data.curriculum.warmup", self.curriculum.warmup, advice)

    def share(self, epoch: int, batch: int) -> float:
        """Return `Curriculum.share` at a batch of an epoch."""
        warmup, number = self.curriculum.warmup, epoch * self.per_epoch + batch
        total: float = self.total or 0
        if self.done is not None and warmup < 1:
            # The nearer limit ends the training; estimate its number of batches from the progress so far.
            done = self.done()
            expected = max(1, number) / done if done else math.inf
            total = expected if self.total is None else min(total, expected)
        if total == math.inf:
            return self.curriculum.share(0, 1) if warmup else 1.0
        return self.curriculum.share(number, round(warmup * total) if warmup < 1 else int(warmup))


class EasiestFirst(TrainingBatches):
    """Training batches of the easiest items during a curriculum's warmup, then those of `TrainingBatches`.

    Each batch depends only on (seed, epoch, its number).

    Args:
        difficulty: returns the difficulty of each item of the epoch, (N,).
        pace: the share of the easiest items to draw batches from.
        arguments: those of `TrainingBatches`.
    """

    def __init__(self, difficulty: Callable[[], NDArray[np.float64]], pace: Pace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.difficulty, self.pace = difficulty, pace

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self.epoch, self.start
        all_batches = super().__iter__()
        if self.pace.share(epoch, start) >= 1:
            return all_batches
        easiest = np.argsort(self.difficulty(), kind="stable")
        return (
            self._draw(easiest, epoch, number, share) if (share := self.pace.share(epoch, number)) < 1 else batch
            for number, batch in enumerate(all_batches, start)
        )

    def _draw(self, easiest: NDArray[np.int64], epoch: int, number: int, share: float) -> list[int]:
        """Draw several batches of the easiest items, sort the items by length, and return one batch."""
        allowed = easiest[: max(self.batch_size, round(share * len(easiest)))]
        drawable = max(1, min(CANDIDATES, len(allowed) // self.batch_size))
        random = np.random.default_rng((self.seed, epoch, DRAW, number, self.rank))
        drawn = random.choice(allowed, min(len(allowed), drawable * self.batch_size), replace=False)
        drawn = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        first = int(random.integers(drawable)) * self.batch_size
        return drawn[first : first + self.batch_size].tolist()


def unigram_costs(documents: EncodedDocuments, vocab_size: int) -> NDArray[np.float64]:
    """Return each token's unigram cross-entropy in nats, (V,), with add-one smoothing."""
    counts = np.ones(vocab_size)
    for indices in batches(range(len(documents)), PER_COUNT):
        counts += np.bincount(np.concatenate([documents[index][1:] for index in indices]), minlength=vocab_size)
    return -np.log(counts / counts.sum())


def in_pieces(batch: Batch, longest: int) -> Batch:
    """Return a batch whose rows (T) are cut into equal pieces of at most ``longest`` tokens; no target is lost."""
    width = batch["inputs"].size(1)
    if width <= longest:
        return batch
    count = -(-width // longest)
    size = -(-width // count)
    cut = dict(batch)
    for name, filler in ("inputs", PAD), ("targets", PAD), ("documents", -1):
        if name in batch:
            padded = torch.nn.functional.pad(batch[name], (0, count * size - width), value=filler)
            cut[name] = padded.reshape(-1, size)
    filled = (cut["targets"] != PAD).any(dim=1)
    return {name: tensor[filled] if tensor.dim() else tensor for name, tensor in cut.items()}
