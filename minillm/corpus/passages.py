"""Which runs of words that are looked for texts have; processes that share the work load this module and no more."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.duplicates import runs
from minillm.corpus.words import words_of

ROOM = 8  # places of the table for each run that is looked for: one in eight others passes it
MOST_ROOM = 1 << 24  # bytes


class Runs:
    """Runs of so many words that are looked for.

    Args:
        keys: (K,) their distinct hashes, ascending.
        length: words in a run.
    """

    def __init__(self, keys: NDArray[np.uint64], length: int) -> None:
        self.keys, self.length = keys, length

    def __reduce__(self) -> tuple[type["Runs"], tuple[NDArray[np.uint64], int]]:
        return Runs, (self.keys, self.length)

    def places(self, words: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the distinct places in the keys of the runs of a text.

        Args:
            words: the hashes of its words.
        """
        found = runs(words, self.length)
        found = found[self._table[found.view(np.int64) & (len(self._table) - 1)]]
        if not len(found):  # as of most text
            return np.zeros(0, np.int32)
        found = np.sort(found)  # in order they are found in half the time: each near the one before
        places = np.minimum(np.searchsorted(self.keys, found), len(self.keys) - 1)
        places = places[self.keys[places] == found].astype(np.int32)
        return places[np.append(True, places[1:] != places[:-1])] if len(places) else places

    @cached_property
    def _table(self) -> NDArray[np.bool_]:
        """Whether a run with such last bits is looked for: most that are not are told apart by one look."""
        size = min(MOST_ROOM, 1 << (ROOM * len(self.keys)).bit_length())
        table = np.zeros(size, dtype=np.bool_)
        table[self.keys.view(np.int64) & (size - 1)] = True
        return table


class Found(NamedTuple):
    """What a text has of what is looked for: the places of its runs in the keys of both."""

    passages: NDArray[np.int32]
    phrases: NDArray[np.int32]


def find(passages: Runs, phrases: Runs, texts: Sequence[str]) -> list[Found]:
    """Return what each text has of both."""
    return [Found(passages.places(words.hashes), phrases.places(words.hashes)) for words in words_of(texts)]
