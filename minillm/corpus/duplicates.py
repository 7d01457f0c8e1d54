"""Duplicates: texts that are the same, and texts that are nearly the same, found in memory that hardly grows.

Near-duplicates share most of their shingles (runs of words). The share is estimated by MinHash (Broder 1997, "On the
resemblance and containment of documents"); locality-sensitive hashing finds the few earlier texts worth comparing with:
those whose signature is the same in one of its bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
chapter 3).

What texts are compared by lies on disk. It is sorted one band at a time, which tells the texts that share a value; then
the texts are judged in their order, each against those kept before it.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.words import word_hashes, words_of
from minillm.engines import Engine, Task
from minillm.errors import SettingError

VERSION = 2  # raised when the same texts would be judged otherwise
REASONS = ("exact duplicate", "near duplicate")
MAX_PERM = 4096  # 32 KB a text, and seconds to set up the search; each time as many halve the error only by a half
MAX_SHINGLE_WORDS = 100
MISS, FALSE_ALARM = 0.9, 0.1  # what they cost when the bands are chosen: candidates are compared afterwards
COMPARED = 64  # kept texts with the same value of a band that a text is compared with: the latest ones
BLOCK = 4096  # texts written, read and judged at a time
SORTED = 1 << 18  # texts sorted at a time, so that sorting takes about 10 MB however many there are
SHINGLES = 1024  # hashed at a time: half a megabyte of hashes, however long the text


@dataclass(frozen=True)
class DuplicateFilter:
    """What counts as a duplicate of an earlier article; the first to come stays.

    With shingles of n words, a text in which a share c of the words is changed here and there keeps about
    s = (1 - c)^n of its shingles, and has the similarity s / (2 - s) to the original: with the defaults, up to 9 %
    of the words changed is a near-duplicate. Unrelated Spanish texts stay under 0.1.

    Args:
        exact: drop texts whose words are the same, whatever their case, punctuation and spacing.
        near: drop texts whose similarity to an earlier one is at least the threshold.
        threshold: share of the shingles of two texts that both have (their Jaccard similarity), above 0, at most 1.
        num_perm: hash functions of the estimate, whose standard error is at most 0.5 / sqrt(num_perm).
        shingle_words: words in a shingle.

    Raises:
        SettingError: a value outside these ranges.
    """

    exact: bool = True
    near: bool = True
    threshold: float = 0.6
    num_perm: int = 128
    shingle_words: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise SettingError("threshold", self.threshold, "must be above 0 and at most 1, such as 0.6")
        if not 16 <= self.num_perm <= MAX_PERM:
            advice = f"must be from 16 to {MAX_PERM}, such as 128: the estimate's error is then under 0.01 already"
            raise SettingError("num_perm", self.num_perm, advice)
        if not 1 <= self.shingle_words <= MAX_SHINGLE_WORDS:
            advice = f"must be from 1 to {MAX_SHINGLE_WORDS}, such as 3: one changed word changes so many shingles"
            raise SettingError("shingle_words", self.shingle_words, advice)

    def sketch(self, text: str) -> "Sketch":
        """Return the little of a text by which it is compared with others."""
        return self.sketch_all([text])[0]

    def sketch_all(self, texts: Sequence[str]) -> list["Sketch"]:
        """Return the sketch of each text; together they take less time."""
        if not (self.exact or self.near):
            return [Sketch(0, None) for _ in texts]
        return [
            Sketch(
                int.from_bytes(hashlib.sha256(words.spelled).digest()[:8], "little"),
                signature(_shingles(words.hashes, self.shingle_words), self.num_perm) if self.near else None,
            )
            for words in words_of(texts)
        ]

    def start(self, folder: str | Path | None = None, engine: Engine | None = None) -> "Sketches":
        """Return a place for the sketches of a corpus's texts, to be used in a ``with`` statement.

        Args:
            folder: where they lie on disk meanwhile; None: where temporary files go.
            engine: has a task for each band where there are many texts; None: the bands are sorted here.
        """
        return Sketches(self, folder, engine)

    def reasons(self, texts: Iterable[str]) -> Iterator[str | None]:
        """Yield for each text how it repeats an earlier one, one of `REASONS`; None where it does not."""
        with self.start() as sketches:
            for text in texts:
                sketches.add(self.sketch(text))
            yield from sketches.reasons()


class Sketch(NamedTuple):
    """What is left of a text to compare it by.

    Attributes:
        digest: 64 bits of the SHA-256 of its words: of 2 million texts, two others have the same with a probability of
            one in 10 million.
        hashes: (num_perm,) uint32, its MinHash signature; None where near-duplicates are not looked for.
    """

    digest: int
    hashes: NDArray[np.uint32] | None


class Sketches:
    """The sketches of a corpus's texts, on disk: 820 bytes per text with the defaults.

    While they are judged, 9 bytes per text are in memory, and 17 for each value of a band that several texts share.

    Args:
        duplicates: what counts as a duplicate.
        folder: where they lie on disk meanwhile; None: where temporary files go.
        engine: has a task for each band where there are many texts, which sees the folder; None: no tasks.
    """

    def __init__(
        self, duplicates: DuplicateFilter, folder: str | Path | None = None, engine: Engine | None = None
    ) -> None:
        self.duplicates = duplicates
        self._engine, self._folder = engine, Path(folder or tempfile.gettempdir()).absolute()
        self._bands, self._rows = bands(duplicates.threshold, duplicates.num_perm) if duplicates.near else (0, 0)
        # Files without a name: whatever becomes of this process, nothing of them stays.
        self._signatures, self._values, self._groups = (
            tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for _ in range(3)
        )
        self._pending: list[Sketch] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._signatures, self._values, self._groups:
            file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, sketch: Sketch) -> None:
        """Take in the next text's sketch, by `DuplicateFilter.sketch`, which another process may have made.

        Raises:
            OSError: it cannot be written.
        """
        self._pending.append(sketch)
        self._count += 1
        if len(self._pending) == BLOCK:
            self._write()

    def reasons(self) -> Iterator[str | None]:
        """Yield for each text how it repeats an earlier one, one of `REASONS`; None where it does not.

        Only kept texts are compared with. Of those that share a value of a band with it, a text is compared with the
        latest `COMPARED`, so that a phrase found in half of the corpus does not have each text compared with each.
        That can miss a near-duplicate further back, where it shares none but such common values with the text.

        Raises:
            OSError: the files cannot be written or read.
        """
        if not (self.duplicates.exact or self.duplicates.near):
            for _ in range(self._count):
                yield None
            return
        self._write()
        firsts = self._firsts()
        kept = self._grouped(firsts) if self.duplicates.near else None
        dropped = np.zeros(self._count, dtype=bool)
        for start in range(0, self._count, BLOCK):
            stop = min(start + BLOCK, self._count)
            near = self._near(start, stop, kept) if kept else set()
            for number in range(start, stop):
                reason = REASONS[1] if number in near else None
                if (first := firsts[number]) != number:
                    # With the same words it has the same signature: a copy of what was dropped is near to the same.
                    reason = REASONS[0] if self.duplicates.exact and not dropped[first] else REASONS[1]
                dropped[number] = reason is not None
                yield reason

    def _write(self) -> None:
        """Put what is pending on disk: signatures; and digests and a hash of each band, as columns of a block."""
        if not self._pending:
            return
        values = np.zeros((1 + self._bands, BLOCK), dtype=np.uint64)
        here = values[:, : len(self._pending)]
        here[0] = [sketch.digest for sketch in self._pending]
        if self._bands:
            signatures = np.stack([sketch.hashes for sketch in self._pending if sketch.hashes is not None])
            self._signatures.write(signatures.tobytes())
            banded = signatures[:, : self._bands * self._rows].reshape(-1, self._bands, self._rows)
            for row in range(self._rows):
                mixed = (here[1:] + banded[:, :, row].T) * np.uint64(0x9E3779B97F4A7C15)
                here[1:] = mixed ^ (mixed >> np.uint64(29))
        self._values.write(values.tobytes())
        self._pending.clear()

    def _firsts(self) -> NDArray[np.int32]:
        """Return, for each text, the number of the first one that has its words, (N,)."""
        firsts = np.arange(self._count, dtype=np.int32)
        for numbers, begins in _sorted(self._values, self._count, self._bands, 0):
            firsts[numbers] = np.repeat(numbers[begins], np.diff(begins, append=len(numbers)))
        return firsts

    def _grouped(self, firsts: NDArray[np.int32]) -> "_Kept":
        """Find out which texts share a value of a band; write the group of each, a column for each band.

        Groups are numbered from 1 over all bands; 0 stands for a value that no other text has. Copies are left out.
        """
        sizes = [np.zeros(1, dtype=np.int64)]
        total = 0
        for group, size in self._groups_of_bands(firsts == np.arange(self._count)):
            group[group > 0] += total
            self._groups.write(group.tobytes())
            sizes.append(np.minimum(size - 1, COMPARED))  # the last one is compared with by none
            total += len(size)
        return _Kept(np.concatenate(sizes))

    def _groups_of_bands(self, originals: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Yield what `_groups_of` returns of each band, one after the other; of many texts each band is a task."""
        if self._engine is None or self._count <= SORTED:
            for band in range(self._bands):
                yield _groups_of(self._values, self._count, self._bands, band, originals)
            return
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="bands-") as name:
            folder = Path(name)
            self._values.seek(0)
            with (folder / "values").open("wb") as values:
                shutil.copyfileobj(self._values, values, 1 << 20)
            np.save(folder / "originals.npy", originals)
            tasks = [
                Task(partial(write_groups, folder, self._bands, band), folder / str(band))
                for band in range(self._bands)
            ]
            self._engine.run(tasks, folder, "looking for duplicates")
            for task in tasks:
                with task.result.open("rb") as file:
                    yield np.load(file), np.load(file)

    def _near(self, start: int, stop: int, kept: "_Kept") -> set[int]:
        """Return which texts of a block are near-duplicates of earlier ones; remember the others."""
        near = set()
        groups = np.stack(
            [
                _read(self._groups, (band * self._count + start) * 4, stop - start, np.int32)
                for band in range(self._bands)
            ],
            axis=1,
        )
        for row in np.flatnonzero(groups.any(axis=1)):
            number, mine = start + int(row), groups[row][groups[row] > 0]
            candidates = kept.of(mine)
            signature = self._signature(number) if len(candidates) else None
            if any(
                np.count_nonzero(self._signature(candidate) == signature) / self.duplicates.num_perm
                >= self.duplicates.threshold
                for candidate in candidates.tolist()
            ):
                near.add(number)
            else:
                kept.add(number, mine)
        return near

    def _signature(self, number: int) -> NDArray[np.uint32]:
        size = self.duplicates.num_perm
        return _read(self._signatures, number * size * 4, size, np.uint32)


class _Kept:
    """Which texts of each group were kept, the latest so many.

    Args:
        sizes: (G,) of how many at most.
    """

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self._sizes = sizes.astype(np.uint8)
        self._begins = np.cumsum(sizes) - sizes
        self._counts = np.zeros(len(sizes), dtype=np.int32)
        self._members = np.zeros(int(sizes.sum()), dtype=np.int32)

    def of(self, groups: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return what was kept of any of the groups."""
        filled = np.minimum(self._counts[groups], self._sizes[groups])
        ends = np.cumsum(filled)
        return np.unique(self._members[np.repeat(self._begins[groups] - ends + filled, filled) + np.arange(ends[-1])])

    def add(self, number: int, groups: NDArray[np.int32]) -> None:
        """Remember a text in each of its groups, in the place of the oldest where a group is full."""
        self._members[self._begins[groups] + self._counts[groups] % self._sizes[groups]] = number
        self._counts[groups] += 1


def write_groups(folder: Path, bands: int, band: int, path: Path) -> None:
    """Write the groups of a band, and how many texts each has.

    Args:
        folder: of the values, and of which texts are no copies.
        bands: how many there are.
        band: which one.
        path: the file to write.
    """
    originals = np.load(folder / "originals.npy")
    with (folder / "values").open("rb") as values, path.open("wb") as file:
        for array in _groups_of(values, len(originals), bands, band, originals):
            np.save(file, array)


def _groups_of(
    values: IO[bytes], count: int, bands: int, band: int, originals: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the group of each text, numbered from 1, 0 where no other one has its value; and the groups' sizes."""
    group, sizes, total = np.zeros(count, dtype=np.int32), [np.zeros(0, dtype=np.int64)], 0
    for numbers, begins in _sorted(values, count, bands, 1 + band, originals):
        size = np.diff(begins, append=len(numbers))
        shared = size > 1
        group[numbers] = np.repeat(np.where(shared, total + np.cumsum(shared), 0), size)
        sizes.append(size[shared])
        total += int(shared.sum())
    return group, np.concatenate(sizes)


def _sorted(
    values: IO[bytes], count: int, bands: int, column: int, taken: NDArray[np.bool_] | None = None
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield the numbers of texts, those with the same value side by side and in order, and where a value begins.

    Args:
        values: what `Sketches` writes.
        count: texts.
        bands: how many there are.
        column: of the values.
        taken: leave out the other texts.
    """
    parts = -(-count // SORTED)
    for part in range(parts):  # the values are spread evenly, so each part has as many of them
        found, where = [], []
        for block, start in enumerate(range(0, count, BLOCK)):
            offset = (block * (1 + bands) + column) * BLOCK * 8
            here = _read(values, offset, min(BLOCK, count - start), np.uint64)
            mine = here % np.uint64(parts) == part
            if taken is not None:
                mine &= taken[start : start + len(here)]
            found.append(here[mine])
            where.append((start + np.flatnonzero(mine)).astype(np.int32))
        all_values = np.concatenate(found)
        order = np.argsort(all_values, kind="stable")
        in_order = all_values[order]
        begins = np.flatnonzero(np.append(len(in_order) > 0, in_order[1:] != in_order[:-1]))
        yield np.concatenate(where)[order], begins


def _read(file: IO[bytes], offset: int, count: int, dtype: type[np.generic]) -> NDArray:
    """Return values at a place of a file; not through a memory map, whose pages would pile up."""
    file.seek(offset)
    return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype=dtype)


def shingles(words: list[str], length: int) -> np.ndarray:
    """Return the 32-bit hashes of all runs of words; of the whole text where it is shorter than one run.

    One that comes again stays: it changes no signature.

    Args:
        words: the text's words.
        length: words in a run.
    """
    return _shingles(word_hashes(words), length)


def _shingles(hashes: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    return runs(hashes, min(length, len(hashes)))


def runs(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return (N - length + 1,) uint64: a 32-bit hash of each run of so many words; none where there are fewer.

    Args:
        hashes: (N,) those of the words.
        length: words in a run.
    """
    result = np.zeros(max(0, len(hashes) - length + 1), dtype=np.uint64)
    for start in range(length):  # a polynomial hash, modulo 2^64
        result = (result + hashes[start : start + len(result)]) * np.uint64(0x9E3779B97F4A7C15)
    return result >> np.uint64(32)


def signature(hashes: NDArray[np.uint64], num_perm: int) -> NDArray[np.uint32]:
    """Return the MinHash signature, (num_perm,), of a set of 32-bit hashes: that of datasketch 2 ("affine32").

    Args:
        hashes: the set; an element may come again.
        num_perm: hash functions, each of which sees the set in another order and takes its first element.
    """
    factors, summands = _permutations(num_perm)
    mixed = hashes.astype(np.uint32)
    for shift, factor in (16, 0x85EBCA6B), (13, 0xC2B2AE35):  # the end of MurmurHash3
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    least = np.full(num_perm, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(mixed), SHINGLES):
        least = np.minimum(least, (mixed[start : start + SHINGLES, None] * factors + summands).min(axis=0))
    return least


@cache
def _permutations(num_perm: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return factors, odd so that no two hashes become one, and summands."""
    random = np.random.RandomState(1)
    factors = random.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.randint(0, 1 << 32, num_perm, dtype=np.uint32)


@cache
def bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Return the number of bands and the values in each that make the fewest errors, misses weighing more.

    Two texts with the similarity s share a value of one of b bands of r rows with the probability 1 - (1 - s^r)^b. It
    is a false alarm under the threshold, and its opposite a miss above; both are added up over all similarities.

    Args:
        threshold: of the similarity.
        num_perm: values in a signature.

    >>> bands(0.6, 128)
    (25, 5)
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_perm // 2 + 1)  # exact: the polynomial's degree is b r
    under, above = (nodes + 1) / 2 * threshold, 1 - (nodes + 1) / 2 * (1 - threshold)

    def error(count: int, rows: int) -> float:
        alarms = (1 - (1 - under**rows) ** count) @ weights * threshold / 2
        misses = (1 - above**rows) ** count @ weights * (1 - threshold) / 2
        return float(FALSE_ALARM * alarms + MISS * misses)

    choices = [(count, rows) for count in range(1, num_perm + 1) for rows in range(1, num_perm // count + 1)]
    return min(choices, key=lambda choice: error(*choice))
