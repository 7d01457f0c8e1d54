"""Duplicates: texts that are the same, and texts that are nearly the same.

Near-duplicates share most of their shingles (runs of words). The share is estimated by MinHash (Broder 1997, "On the
resemblance and containment of documents"); locality-sensitive hashing finds the few earlier texts worth comparing with.
"""

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from minillm.errors import SettingError

VERSION = 1  # raised when the same texts would be judged otherwise
REASONS = ("exact duplicate", "near duplicate")
WORD = re.compile(r"\w+")
MAX_PERM = 4096  # 32 KB a text, and seconds to set up the search; each time as many halve the error only by a half
MAX_SHINGLE_WORDS = 100


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
        words = WORD.findall(text.lower())
        digest = hashlib.sha256(" ".join(words).encode()).digest()
        if not self.near:
            return Sketch(digest, None)
        signature = _empty_signature(self.num_perm).copy()
        signature.update_batch(shingles(words, self.shingle_words))
        return Sketch(digest, signature.hashvalues)

    def start(self) -> "SeenTexts":
        """Return a fresh memory for one pass over a corpus."""
        return SeenTexts(self)


class Sketch(NamedTuple):
    """What is left of a text to compare it by.

    Attributes:
        digest: SHA-256 of its words.
        hashes: (num_perm,) uint64, its MinHash signature; None where near-duplicates are not looked for.
    """

    digest: bytes
    hashes: np.ndarray | None


class SeenTexts:
    """The texts kept so far in one pass, as hashes: about 8 KB a text with the defaults.

    Args:
        duplicates: what counts as a duplicate.
    """

    def __init__(self, duplicates: DuplicateFilter) -> None:
        self.duplicates = duplicates
        self._digests: set[bytes] = set()
        self._signatures: list[MinHash] = []
        # Candidates are compared afterwards, so a miss costs more than a false alarm.
        self._index = MinHashLSH(threshold=duplicates.threshold, num_perm=duplicates.num_perm, weights=(0.1, 0.9))

    def reason(self, text: str | Sketch) -> str | None:
        """Return how a text repeats an earlier one; remember it and return None where it does not.

        Args:
            text: the text, or its sketch by `DuplicateFilter.sketch`, which another process may have made.
        """
        sketch = self.duplicates.sketch(text) if isinstance(text, str) else text
        if self.duplicates.exact and sketch.digest in self._digests:
            return "exact duplicate"
        if sketch.hashes is not None:
            signature = _empty_signature(self.duplicates.num_perm).copy()
            signature.hashvalues = sketch.hashes
            candidates = (self._signatures[key] for key in self._index.query(signature))
            if any(signature.jaccard(candidate) >= self.duplicates.threshold for candidate in candidates):
                return "near duplicate"
            self._index.insert(len(self._signatures), signature, check_duplication=False)
            self._signatures.append(signature)
        self._digests.add(sketch.digest)
        return None


@cache
def _empty_signature(num_perm: int) -> MinHash:
    return MinHash(num_perm=num_perm, hashfunc=int)  # shingles come hashed


def shingles(words: list[str], length: int) -> np.ndarray:
    """Return the distinct 32-bit hashes of all runs of words; of the whole text where it is shorter than one run.

    Args:
        words: the text's words.
        length: words in a run.
    """
    return np.unique(runs(word_hashes(words), min(length, len(words))))


def word_hashes(words: list[str]) -> np.ndarray:
    """Return (N,) uint64: a 32-bit hash of each word."""
    return np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))


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
