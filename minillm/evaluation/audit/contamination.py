"""Whether validation or test text is in the training text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minillm.corpus.duplicates import runs
from minillm.corpus.passages import Runs, find
from minillm.corpus.words import Words, words_of
from minillm.errors import SettingError
from minillm.evaluation.audit.chance import evenly
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Split, Subject
from minillm.parallel import batches, in_order, processes_for

SEQUENCE = 13  # words, as in Brown et al. (2020), appendix C
SHINGLE = 3  # words, as in the corpus's duplicate filter
TEXTS_PER_TASK = 64  # that a process searches at a time


@dataclass(frozen=True)
class Contamination:
    """Searches the training text for validation and test text: for 13-word sequences and for near-duplicate articles.

    If a share c of a text's words is changed, (1 - c)^13 of its 13-word sequences remain, 1 % for c = 0.3, but
    (1 - c)^3 of its 3-word sequences, 34 %. So the former find copied passages, the latter edited articles. 3-word
    sequences in more than ``common`` training articles are common phrases or templates, and are ignored.

    Validation and test articles are kept in memory; training articles are read once, so memory does not grow with them.

    Args:
        sequences: allowed share of a split's 13-word sequences in the training text; in encyclopedic text, quotations
            and set phrases are well under 0.01.
        similarity: share of an article's 3-word sequences in one training article from which it is a near-duplicate:
            unrelated articles share under 0.1, and a copy with 30 % of its words changed has 0.34.
        shared: minimum number of shared sequences of a near-duplicate, since a short article can reach the share by
            chance.
        common: see above.
        max_articles: articles of each split to search for, evenly spaced, which bounds memory and time.

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
        """Search the training split for text of the other splits."""
        if "train" not in subject.splits:
            sentence = "Contamination was not checked: the training text is not available."
            return finding("none", sentence, self.sequences)
        looked_for = [
            _LookedFor(name, words)
            for name, split in subject.samples.items()
            if name != "train"
            for words in words_of([split.texts[index] for index in evenly(len(split.texts), self.max_articles)])
        ]
        shares, copies = self._found(looked_for, subject.splits["train"])
        # Both measures: a split's share hides a single article, and an edited copy may have no long sequence.
        worst = max(shares, key=lambda name: shares[name])
        share = f"{shares[worst]:.2%} of the 13-word sequences of {worst} are in the training text"
        allowed = f"({self.sequences:.0%} is allowed)"
        if copies:
            first = copies[0]
            sentence = (
                f"{len(copies)} validation or test articles are nearly the same as training articles, such as "
                f"“{first['begins']}…” ({first['similarity']:.0%} of its 3-word sequences); {share} {allowed}."
            )
        elif shares[worst] > self.sequences:
            sentence = f"The training text contains validation or test text: {share} {allowed}."
        else:
            sentence = f"The training text has no validation or test text: {share} {allowed}, and no article is close."
        verdict: Verdict = "fault" if copies or shares[worst] > self.sequences else "fine"
        return finding(verdict, sentence, self.sequences, sequences=shares, near_duplicates=copies)

    def _found(self, looked_for: Sequence["_LookedFor"], train: Split) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Search the training text once, on all cores if it is large.

        Returns:
            The share of each split's 13-word sequences that it contains, and the near-duplicate articles with their
            largest similarity.
        """
        passages, phrases = (
            _Index([np.unique(runs(article.words.hashes, length)) for article in looked_for])
            for length in (SEQUENCE, SHINGLE)
        )
        find_both = partial(find, Runs(passages.keys, SEQUENCE), Runs(phrases.keys, SHINGLE))
        texts = train.texts if train.whole is None else train.whole
        seen = np.zeros(len(passages.keys), dtype=bool)
        spread = np.zeros(len(phrases.keys), dtype=np.int64)  # training articles that have each 3-word sequence
        # For each training article that may be a near-duplicate: the articles that it may duplicate, and its phrases
        # that are not known to be common. Each phrase occurs at most ``common`` times, which bounds the memory.
        pairs: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
        for _, found in in_order(find_both, batches(texts, TEXTS_PER_TASK), processes_for(train.bytes)):
            seen[found.passages] = True
            spread[found.phrases] += 1
            # More phrases turn out to be common later, which only lowers the number shared. So a pair with too few
            # shared phrases can be dropped now, and the others are counted again at the end.
            rare = found.phrases[spread[found.phrases] <= self.common]
            if len(rare) >= self.shared and len(articles := np.flatnonzero(phrases.shared(rare) >= self.shared)):
                pairs.append((articles, rare))
        most = np.zeros(len(looked_for), dtype=np.int64)
        for articles, rare in pairs:
            shared = phrases.shared(rare[spread[rare] <= self.common])
            most[articles] = np.maximum(most[articles], shared[articles])
        own = phrases.shared(np.flatnonzero(spread <= self.common))
        similarity = most / np.maximum(1, own)
        close = np.flatnonzero((similarity >= self.similarity) & (most >= self.shared))
        copies = [
            {
                "split": looked_for[index].split,
                "begins": " ".join(looked_for[index].words.spelled.decode().split(" ")[:6]),
                "similarity": float(similarity[index]),
            }
            for index in close.tolist()
        ]
        shares = {}
        for name in dict.fromkeys(article.split for article in looked_for):
            own_passages = passages.of([index for index, article in enumerate(looked_for) if article.split == name])
            shares[name] = float(seen[own_passages].mean()) if len(own_passages) else 0.0
        return shares, copies


class _LookedFor(NamedTuple):
    """A validation or test article."""

    split: str
    words: Words


class _Index:
    """An inverted index of sequences to articles.

    Args:
        each: the distinct sequences of each article, as hashes.
    """

    def __init__(self, each: Sequence[NDArray[np.uint64]]) -> None:
        together = np.concatenate([*each, np.zeros(0, np.uint64)])
        order = np.argsort(together, kind="stable")
        self.articles = len(each)
        self._owner = np.repeat(np.arange(len(each)), [len(own) for own in each])[order]
        self.keys, self._first = np.unique(together[order], return_index=True)
        self._last = np.append(self._first[1:], len(together))

    def shared(self, places: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return how many of the sequences with these indices each article has, (articles,)."""
        counts = self._last[places] - self._first[places]
        begins = np.repeat(self._first[places] - np.cumsum(counts) + counts, counts)
        return np.bincount(self._owner[begins + np.arange(counts.sum())], minlength=self.articles)

    def of(self, articles: Sequence[int]) -> NDArray[np.int64]:
        """Return the indices of the sequences that at least one of these articles has."""
        wanted = np.zeros(self.articles, dtype=bool)
        wanted[list(articles)] = True
        place = np.repeat(np.arange(len(self.keys)), self._last - self._first)
        return np.unique(place[wanted[self._owner]])
