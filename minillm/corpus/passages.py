"""Searching texts for given sequences of words; worker processes only import this module."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.duplicates import runs
from minillm.corpus.words import words_of

SLOTS_PER_KEY = 8  # of the hash table: one in eight sequences that are not searched for is not filtered out
MAX_SLOTS = 1 << 24  # of one byte


class Runs:
    """Sequences of words to search for.

    Args:
        keys: (K,) their distinct hashes, ascending.
        length: words per sequence.
    """

    def __init__(self, keys: NDArray[np.uint64], length: int) -> None:
        self.keys, self.length = keys, length

    def __reduce__(self) -> tuple[type["Runs"], tuple[NDArray[np.uint64], int]]:
        return Runs, (self.keys, self.length)

    def places(self, words: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the distinct indices, in the keys, of the sequences that a text contains.

        Args:
            words: the hashes of its words.
        """
        found = runs(words, self.length)
        found = found[self._table[found.view(np.int64) & (len(self._table) - 1)]]
        if not len(found):  # as in most texts
            return np.zeros(0, np.int32)
        found = np.sort(found)  # halves the time of the search, since each is near the one before
        places = np.minimum(np.searchsorted(self.keys, found), len(self.keys) - 1)
        places = places[self.keys[places] == found].astype(np.int32)
        return places[np.append(True, places[1:] != places[:-1])] if len(places) else places

    @cached_property
    def _table(self) -> NDArray[np.bool_]:
        """Whether a key has given last bits: a filter that excludes most other sequences by one lookup."""
        size = min(MAX_SLOTS, 1 << (SLOTS_PER_KEY * len(self.keys)).bit_length())
        table = np.zeros(size, dtype=np.bool_)
        table[self.keys.view(np.int64) & (size - 1)] = True
        return table


class Found(NamedTuple):
    """The indices of the passages and phrases that a text contains, in the keys of both."""

    passages: NDArray[np.int32]
    phrases: NDArray[np.int32]


def find(passages: Runs, phrases: Runs, texts: Sequence[str]) -> list[Found]:
    """Return the passages and phrases that each text contains."""
    return [Found(passages.places(words.hashes), phrases.places(words.hashes)) for words in words_of(texts)]
