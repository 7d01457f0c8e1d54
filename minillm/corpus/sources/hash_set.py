"""A set of hashes in little memory."""

import numpy as np

RECENT = 1 << 16  # hashes that are not yet in a sorted run


class HashSet:
    """A set of 63-bit hashes, in eight bytes each.

    New hashes are in a Python set; a full set becomes a sorted run, and runs of similar length are merged.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[np.ndarray] = []  # sorted int64, each longer than the next

    def __contains__(self, number: object) -> bool:
        return number in self._recent or any(_is_in(run, number) for run in self._runs)

    def add(self, number: int) -> bool:
        """Add a hash; return whether it is new."""
        if number in self:
            return False
        self._recent.add(number)
        if len(self._recent) == RECENT:
            run = np.sort(np.fromiter(self._recent, np.int64, RECENT))
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.sort(np.concatenate([self._runs.pop(), run]))
            self._runs.append(run)
            self._recent.clear()
        return True


def _is_in(run: np.ndarray, number: object) -> bool:
    place = int(np.searchsorted(run, number))  # type: ignore[call-overload]
    return place < len(run) and bool(run[place] == number)
