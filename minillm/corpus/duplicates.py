"""Exact and near duplicates, found in memory that hardly grows with the corpus.

Near-duplicates share most of their shingles (runs of words). MinHash estimates the share (Broder 1997, "On the
resemblance and containment of documents"). Locality-sensitive hashing finds the few earlier texts worth comparing with:
those whose signatures are equal in at least one band (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
chapter 3).

The sketches of the texts lie on disk. Sorting them one band at a time finds the texts with equal values. Then the texts
are judged in their order, each against the earlier ones that were kept.
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

VERSION = 2  # raised when the same texts get another verdict
REASONS = ("exact duplicate", "near duplicate")
MAX_PERM = 4096  # 16 KB per text; four times as many hash functions halve the error
MAX_SHINGLE_WORDS = 100
MISS_COST, FALSE_ALARM_COST = 0.9, 0.1  # in choosing the bands; false candidates are only compared in vain
MAX_COMPARED = 64  # kept texts that a text is compared with, per band: the latest with the same value
BLOCK = 4096  # texts written, read and judged at a time
SORTED_AT_ONCE = 1 << 18  # texts, in about 10 MB
HASHED_AT_ONCE = 1024  # shingles, in half a megabyte


@dataclass(frozen=True)
class DuplicateFilter:
    """What counts as a duplicate of an earlier article; the first one is kept.

    With shingles of n words, a text in which a share c of the words is changed at random keeps about
    s = (1 - c)^n of its shingles, and has similarity s / (2 - s) to the original: with the defaults, a near-duplicate
    has up to 9 % of its words changed. Unrelated Spanish texts stay under 0.1.

    Args:
        exact: drop texts with the words of an earlier one, ignoring case, punctuation and spacing.
        near: drop texts whose similarity to an earlier one is at least the threshold.
        threshold: least Jaccard similarity of the shingles of two near-duplicates, above 0, at most 1.
        num_perm: hash functions of the estimate; its standard error is at most 0.5 / sqrt(num_perm).
        shingle_words: words per shingle.

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
        """Return the sketch by which a text is compared with others."""
        return self.sketch_all([text])[0]

    def sketch_all(self, texts: Sequence[str]) -> list["Sketch"]:
        """Return the sketch of each text; faster than one by one."""
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
        """Return a store for the sketches of a corpus, for use in a ``with`` statement.

        Args:
            folder: for temporary files; None: the system's.
            engine: sorts the bands of many texts, one task per band; None: they are sorted in this process.
        """
        return Sketches(self, folder, engine)

    def reasons(self, texts: Iterable[str]) -> Iterator[str | None]:
        """Yield for each text one of `REASONS` if it repeats an earlier one, else None."""
        with self.start() as sketches:
            for text in texts:
                sketches.add(self.sketch(text))
            yield from sketches.reasons()


class Sketch(NamedTuple):
    """What a text is compared by.

    Attributes:
        digest: 64 bits of the SHA-256 of its words. Among 2 million different texts, two are equal in it with a
            probability of one in 10 million.
        hashes: (num_perm,) uint32, its MinHash signature; None if near-duplicates are not searched.
    """

    digest: int
    hashes: NDArray[np.uint32] | None


class Sketches:
    """The sketches of a corpus's texts, on disk: 820 bytes per text with the defaults.

    Judging the texts takes 9 bytes of memory per text, and 17 per value of a band that several texts share.

    Args:
        duplicates: what counts as a duplicate.
        folder: for temporary files; None: the system's.
        engine: sorts the bands of many texts, one task per band, and sees the folder; None: no tasks.
    """

    def __init__(
        self, duplicates: DuplicateFilter, folder: str | Path | None = None, engine: Engine | None = None
    ) -> None:
        self.duplicates = duplicates
        self._engine, self._folder = engine, Path(folder or tempfile.gettempdir()).absolute()
        self._bands, self._rows = bands(duplicates.threshold, duplicates.num_perm) if duplicates.near else (0, 0)
        # Files without a name vanish however this process ends.
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
        """Add the next text's sketch.

        Raises:
            OSError: it cannot be written.
        """
        self._pending.append(sketch)
        self._count += 1
        if len(self._pending) == BLOCK:
            self._write()

    def reasons(self) -> Iterator[str | None]:
        """Yield for each text one of `REASONS` if it repeats an earlier one, else None.

        A text is compared with kept texts only: per band, with the latest `MAX_COMPARED` of the same value. This bounds
        the comparisons where a phrase is in half of the corpus; it can miss a near-duplicate further back that shares
        only such common values with the text.

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
                    # Same words, same signature: a copy of a dropped near-duplicate is a near-duplicate, too.
                    reason = REASONS[0] if self.duplicates.exact and not dropped[first] else REASONS[1]
                dropped[number] = reason is not None
                yield reason

    def _write(self) -> None:
        """Write pending signatures, and a block with a column of digests and a column of hashes per band."""
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
        """Return, for each text, the number of the first text with the same words, (N,)."""
        firsts = np.arange(self._count, dtype=np.int32)
        for numbers, begins in _sorted(self._values, self._count, self._bands, 0):
            firsts[numbers] = np.repeat(numbers[begins], np.diff(begins, append=len(numbers)))
        return firsts

    def _grouped(self, firsts: NDArray[np.int32]) -> "_Kept":
        """Group the texts with equal values in a band; write each text's group, one column per band.

        Groups are numbered from 1 over all bands; 0: no other text has the value. Copies are left out.
        """
        sizes = [np.zeros(1, dtype=np.int64)]
        total = 0
        for group, size in self._groups_of_bands(firsts == np.arange(self._count)):
            group[group > 0] += total
            self._groups.write(group.tobytes())
            sizes.append(np.minimum(size - 1, MAX_COMPARED))  # no later text is compared with the last one
            total += len(size)
        return _Kept(np.concatenate(sizes))

    def _groups_of_bands(self, originals: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Yield the result of `_groups_of` for each band; where there are many texts, each band is a task."""
        if self._engine is None or self._count <= SORTED_AT_ONCE:
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
        """Return the texts of a block that are near-duplicates of earlier ones; keep the others."""
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
    """The latest kept texts of each group.

    Args:
        sizes: (G,), the most texts per group.
    """

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self._sizes = sizes.astype(np.uint8)
        self._begins = np.cumsum(sizes) - sizes
        self._counts = np.zeros(len(sizes), dtype=np.int32)
        self._members = np.zeros(int(sizes.sum()), dtype=np.int32)

    def of(self, groups: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the kept texts of all given groups."""
        filled = np.minimum(self._counts[groups], self._sizes[groups])
        ends = np.cumsum(filled)
        return np.unique(self._members[np.repeat(self._begins[groups] - ends + filled, filled) + np.arange(ends[-1])])

    def add(self, number: int, groups: NDArray[np.int32]) -> None:
        """Keep a text in each of its groups; in a full group it replaces the oldest."""
        self._members[self._begins[groups] + self._counts[groups] % self._sizes[groups]] = number
        self._counts[groups] += 1


def write_groups(folder: Path, bands: int, band: int, path: Path) -> None:
    """Write the groups of a band and their sizes.

    Args:
        folder: holds the values, and which texts are no copies.
        bands: number of bands.
        band: its number.
        path: the file to write.
    """
    originals = np.load(folder / "originals.npy")
    with (folder / "values").open("rb") as values, path.open("wb") as file:
        for array in _groups_of(values, len(originals), bands, band, originals):
            np.save(file, array)


def _groups_of(
    values: IO[bytes], count: int, bands: int, band: int, originals: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return each text's group, numbered from 1, or 0 if no other text has its value; and the groups' sizes."""
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
    """Yield numbers of texts, sorted by value and then by number, and the index at which each value begins.

    Args:
        values: the file that `Sketches` writes.
        count: number of texts.
        bands: number of bands.
        column: of the values.
        taken: (N,), which texts to include; None: all.
    """
    parts = -(-count // SORTED_AT_ONCE)
    for part in range(parts):  # the values are hashes, so the parts are of equal size
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
    """Return values at an offset of a file; without a memory map, whose pages would stay in memory."""
    file.seek(offset)
    return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype=dtype)


def shingles(words: list[str], length: int) -> np.ndarray:
    """Return the 32-bit hashes of all runs of words, or of the whole text if it is shorter.

    Repeated hashes stay: they change no signature.

    Args:
        words: the text's words.
        length: words per run.
    """
    return _shingles(word_hashes(words), length)


def _shingles(hashes: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    return runs(hashes, min(length, len(hashes)))


def runs(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return (N - length + 1,) uint64: a 32-bit hash of each run of words; none if there are too few words.

    Args:
        hashes: (N,) those of the words.
        length: words per run.
    """
    result = np.zeros(max(0, len(hashes) - length + 1), dtype=np.uint64)
    for start in range(length):  # a polynomial hash, modulo 2^64
        result = (result + hashes[start : start + len(result)]) * np.uint64(0x9E3779B97F4A7C15)
    return result >> np.uint64(32)


def signature(hashes: NDArray[np.uint64], num_perm: int) -> NDArray[np.uint32]:
    """Return the MinHash signature, (num_perm,), of a set of 32-bit hashes: that of datasketch 2 ("affine32").

    Args:
        hashes: the set; elements may repeat.
        num_perm: hash functions; each permutes the set and takes its smallest element.
    """
    factors, summands = _permutations(num_perm)
    mixed = hashes.astype(np.uint32)
    for shift, factor in (16, 0x85EBCA6B), (13, 0xC2B2AE35):  # the end of MurmurHash3
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    least = np.full(num_perm, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(mixed), HASHED_AT_ONCE):
        least = np.minimum(least, (mixed[start : start + HASHED_AT_ONCE, None] * factors + summands).min(axis=0))
    return least


@cache
def _permutations(num_perm: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return odd factors, which map different hashes to different ones, and summands."""
    random = np.random.RandomState(1)
    factors = random.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.randint(0, 1 << 32, num_perm, dtype=np.uint32)


@cache
def bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Return the number of bands and of rows per band with the least cost of errors.

    Two texts of similarity s are equal in at least one of b bands of r rows with probability 1 - (1 - s^r)^b: a false
    alarm under the threshold. Above it, the opposite is a miss. The cost is integrated over all similarities.

    Args:
        threshold: of the similarity.
        num_perm: values per signature.

    >>> bands(0.6, 128)
    (25, 5)
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_perm // 2 + 1)  # exact: the polynomial's degree is b r
    under, above = (nodes + 1) / 2 * threshold, 1 - (nodes + 1) / 2 * (1 - threshold)

    def error(count: int, rows: int) -> float:
        alarms = (1 - (1 - under**rows) ** count) @ weights * threshold / 2
        misses = (1 - above**rows) ** count @ weights * (1 - threshold) / 2
        return float(FALSE_ALARM_COST * alarms + MISS_COST * misses)

    choices = [(count, rows) for count in range(1, num_perm + 1) for rows in range(1, num_perm // count + 1)]
    return min(choices, key=lambda choice: error(*choice))
