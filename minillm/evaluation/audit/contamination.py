"""Was the text that judges the network also learned from?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.duplicates import WORD, shingles
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.subject import Subject

SEQUENCE = 13  # words, as in Brown et al. (2020), appendix C
SHINGLE = 3  # words, as the corpus' own filter has it


@dataclass(frozen=True)
class Contamination:
    """Looks for validation and test text in the training text: 13-word sequences, and articles nearly the same.

    A text with a share c of its words changed keeps (1 - c)^13 of its 13-word sequences, 1 % at c = 0.3, but
    (1 - c)^3 of its 3-word ones, 34 %: the former find passages that were copied, the latter articles that were edited.
    3-word sequences that more than ``common`` training articles have are the language's, or a template's, and left out.

    The articles looked for are in memory, those of the training split pass by: memory does not grow with it.

    Args:
        sequences: share of the validation and test splits' 13-word sequences that may stand in the training text:
            quotations and set phrases come to well under 0.01 in encyclopedic text.
        similarity: share of an article's 3-word sequences that one training article may have: unrelated articles stay
            under 0.1, and a copy with 30 % of its words changed keeps 0.34.
        shared: so many of them at least: a short article has that share by chance.
        common: see above.
        max_articles: articles of each split to look for, evenly over it: bounds memory and time.

    Raises:
        SettingError: a value outside its range.
    """

    sequences: float = 0.01
    similarity: float = 0.2
    shared: int = 20
    common: int = 10
    max_articles: int = 2000

    def __post_init__(self) -> None:
        for name in ("sequences", "similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(name, getattr(self, name), "must be over 0 and at most 1")
        for name in ("shared", "common", "max_articles"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Return how much of the other splits the training split holds."""
        if "train" not in subject.splits:
            sentence = "Contamination was not checked: the text that the network learned from is not at hand."
            return finding(None, sentence, self.sequences)
        train = subject.splits["train"].texts
        shares: dict[str, float] = {}
        copies: list[dict[str, Any]] = []
        for name, split in subject.splits.items():
            if name != "train":
                looked_for = [_words(split.texts[index]) for index in _evenly(len(split.texts), self.max_articles)]
                shares[name] = _found(looked_for, train)
                copies += [{"split": name, **copy} for copy in self._copies(looked_for, train)]
        # A whole split's share hides one article in a large split, and a near copy has no long sequence: hence both.
        worst = max(shares, key=lambda name: shares[name])
        share = f"{shares[worst]:.2%} of the 13-word sequences of {worst} stand in the training text"
        allowed = f"({self.sequences:.0%} is allowed)"
        if copies:
            first = copies[0]
            sentence = (
                f"{len(copies)} validation or test articles are nearly the same as training articles, such as "
                f"“{first['begins']}…” ({first['similarity']:.0%} of its 3-word sequences); {share} {allowed}."
            )
        elif shares[worst] > self.sequences:
            sentence = f"The training text holds text that judges the network: {share} {allowed}."
        else:
            sentence = (
                f"Training text is apart from what judges the network: {share} {allowed}, and no article is close."
            )
        passed = not copies and shares[worst] <= self.sequences
        return finding(passed, sentence, self.sequences, sequences=shares, near_duplicates=copies)

    def _copies(self, looked_for: Sequence[list[str]], train: Iterable[str]) -> list[dict[str, Any]]:
        """Return the articles that a training article nearly repeats, with the greatest similarity."""
        each = [_sequences(words, SHINGLE) for words in looked_for]
        index = _Index(each)
        spread = np.zeros(len(index.keys), dtype=np.int64)  # training articles that have each sequence
        for text in train:
            spread[index.find(_sequences(_words(text), SHINGLE))] += 1
        rare = set(index.keys[spread <= self.common].tolist())
        each = [np.array([key for key in own.tolist() if key in rare], dtype=np.uint64) for own in each]
        index = _Index(each)
        most = np.zeros(len(each), dtype=np.int64)
        for text in train:
            shared = index.owners(index.find(_sequences(_words(text), SHINGLE)))
            most = np.maximum(most, np.bincount(shared, minlength=len(each)))
        similarity = most / np.maximum(1, [len(own) for own in each])
        found = np.flatnonzero((similarity >= self.similarity) & (most >= self.shared))
        return [{"begins": " ".join(looked_for[i][:6]), "similarity": float(similarity[i])} for i in found.tolist()]


class _Index:
    """Which articles have a sequence.

    Args:
        each: the distinct sequences of each article, as hashes.
    """

    def __init__(self, each: Sequence[NDArray[np.uint64]]) -> None:
        together = np.concatenate([*each, np.zeros(0, np.uint64)])
        order = np.argsort(together, kind="stable")
        self._owner = np.repeat(np.arange(len(each)), [len(own) for own in each])[order]
        self.keys, self._first = np.unique(together[order], return_index=True)
        self._last = np.append(self._first[1:], len(together))

    def find(self, sequences: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places in ``keys`` of those sequences that it has."""
        if not len(self.keys):
            return np.zeros(0, np.int64)
        places = np.minimum(np.searchsorted(self.keys, sequences), len(self.keys) - 1)
        return places[self.keys[places] == sequences]

    def owners(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the articles that have the sequences at these places, each as often as it has one."""
        counts = self._last[places] - self._first[places]
        begins = np.repeat(self._first[places] - np.cumsum(counts) + counts, counts)
        return self._owner[begins + np.arange(counts.sum())]


def _found(looked_for: Sequence[list[str]], train: Iterable[str]) -> float:
    """Return the share of the articles' 13-word sequences that the training text has."""
    index = _Index([_sequences(words, SEQUENCE) for words in looked_for])
    seen = np.zeros(len(index.keys), dtype=bool)
    for text in train:
        seen[index.find(_sequences(_words(text), SEQUENCE))] = True
    return float(seen.mean()) if len(seen) else 0.0


def _sequences(words: list[str], length: int) -> NDArray[np.uint64]:
    """Return the distinct hashes of all runs of so many words."""
    return shingles(words, length).astype(np.uint64) if len(words) >= length else np.zeros(0, np.uint64)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _evenly(length: int, most: int) -> list[int]:
    """Return at most so many places, evenly over the length."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int)).tolist() if length else []
