"""Curriculum: what is easy to learn first, and by and by everything."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from minillm.data.batching import Batch, Documents, TrainingBatches
from minillm.errors import SettingError
from minillm.parallel import batches
from minillm.tokenization import PAD

DRAW = 3  # what is drawn, behind seed and epoch; see `minillm.data.augmentation`
COUNTED = 500  # documents whose tokens are counted at once: a count is as long as the vocabulary
CANDIDATES = 8  # batches drawn for one, of items of like length: more means less padding


@dataclass(frozen=True)
class Curriculum:
    """What training begins with, and how it comes to the whole.

    - ``length``: short rows first (Li et al., "The Stability-Efficiency Dilemma", 2022). Each row is cut into equal
      pieces, which stand below each other: a batch keeps its tokens, (B, T) becomes (2 B, T / 2), and only their
      context is shorter. The longest piece allowed grows in a line.
    - ``difficulty``: easy text first (Platanios et al., "Competence-based Curriculum Learning", 2019). Batches are
      drawn from the easiest windows (or packed rows), those with the lowest mean unigram cross-entropy per token; their
      share grows with the square root of time. Afterwards an epoch has each window once again.

    Args:
        by: what is easy; None: no curriculum.
        warmup: share of the training that the growth takes, under 1; or, from 1 on, its batches.
        start: share of the length, or of the windows, that it begins with.

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
        """Return the share of the length, or of the windows, that a batch may have.

        >>> [round(Curriculum("length", start=0.2).share(batch, 4), 2) for batch in range(6)]
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
        >>> [round(Curriculum("difficulty", start=0.2).share(batch, 4), 2) for batch in range(6)]
        [0.2, 0.53, 0.72, 0.87, 1.0, 1.0]

        Args:
            batch: its number in the whole training, from 0.
            duration: batches until all is there.
        """
        if batch >= duration:
            return 1.0
        if self.by == "difficulty":
            return math.sqrt(self.start**2 + (1 - self.start**2) * batch / duration)
        return self.start + (1 - self.start) * batch / duration


@dataclass(frozen=True)
class Pace:
    """Where a curriculum stands at each batch of a training.

    Args:
        curriculum: how it grows.
        per_epoch: batches an epoch.
        total: batches of the whole training; None where no number of them ends it.
        done: returns the share of the training that is done by a limit of time or tokens; None: there is none.

    Raises:
        SettingError: a share of a training without an end.
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
            # The nearer limit ends the training: after so many batches, at the pace so far.
            done = self.done()
            expected = max(1, number) / done if done else math.inf
            total = expected if self.total is None else min(total, expected)
        if total == math.inf:
            return self.curriculum.share(0, 1) if warmup else 1.0
        return self.curriculum.share(number, round(warmup * total) if warmup < 1 else int(warmup))


class EasiestFirst(TrainingBatches):
    """Training batches of the easiest items for as long as a curriculum grows; then those of `TrainingBatches`.

    Each batch depends on (seed, epoch, its number) alone.

    Args:
        difficulty: returns how hard each item of the epoch is, (N,).
        pace: the share of the easiest that batches are drawn from.
        arguments: those of `TrainingBatches`.
    """

    def __init__(self, difficulty: Callable[[], NDArray[np.float64]], pace: Pace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.difficulty, self.pace = difficulty, pace

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self.epoch, self.start
        plain = super().__iter__()
        if self.pace.share(epoch, start) >= 1:
            return plain
        easiest = np.argsort(self.difficulty(), kind="stable")
        return (
            self._draw(easiest, epoch, number, share) if (share := self.pace.share(epoch, number)) < 1 else batch
            for number, batch in enumerate(plain, start)
        )

    def _draw(self, easiest: NDArray[np.int64], epoch: int, number: int, share: float) -> list[int]:
        """Draw several batches of the easiest items, sort them by length, and take one."""
        allowed = easiest[: max(self.batch_size, round(share * len(easiest)))]
        drawable = max(1, min(CANDIDATES, len(allowed) // self.batch_size))
        random = np.random.default_rng((self.seed, epoch, DRAW, number, self.rank))
        drawn = random.choice(allowed, min(len(allowed), drawable * self.batch_size), replace=False)
        drawn = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        first = int(random.integers(drawable)) * self.batch_size
        return drawn[first : first + self.batch_size].tolist()


def unigram_costs(documents: Documents, vocab_size: int) -> NDArray[np.float64]:
    """Return -log of each token's share of the targets, (V,), in nats; a token that never occurs counts as once."""
    counts = np.ones(vocab_size)
    for indices in batches(range(len(documents)), COUNTED):
        counts += np.bincount(np.concatenate([documents[index][1:] for index in indices]), minlength=vocab_size)
    return -np.log(counts / counts.sum())


def in_pieces(batch: Batch, longest: int) -> Batch:
    """Return a batch with each row (T) in equal pieces of at most ``longest`` tokens, a row each; no target is lost."""
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
