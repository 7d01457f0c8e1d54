"""Whether val and test are disjoint and of the same kind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from minillm.data.batching import EncodedDocuments
from minillm.errors import SettingError
from minillm.evaluation.audit.chance import evenly
from minillm.evaluation.audit.contamination import Contamination
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Split, Subject

MIN_ARTICLES = 20  # per split: half of them to train the classifier, half to test it
MAX_TOKENS = 2000  # of an article that are used


@dataclass(frozen=True)
class Splits:
    """Searches for articles that are in both val and test, and tests whether the two splits are distinguishable.

    If val and test share articles, choices made on val are made on test; if they are of different kinds, val says
    nothing about test. (`Contamination` checks what they share with train.)

    Distinguishability is tested by a classifier two-sample test (Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample
    Tests", 2017): naive Bayes on tokens is trained on half of the articles, and ranks the other half; the ranks are
    tested by the Mann-Whitney U test (1947). Random splits give random ranks, for any articles.

    Args:
        separable: allowed share of pairs of a val and a test article that the classifier ranks correctly; 0.5 is
            chance. The first and the last articles of the sample corpus give 0.53, those with the fewest and the most
            digits 0.998; so a split by time, with small differences, passes.
        alarm: probability of a false alarm; a fault must also be significant at this level.
        copies: defines when two articles are near-duplicates.
        max_articles: articles of each split to use, evenly spaced, which bounds the time.

    Raises:
        SettingError: a value outside its range.
    """

    separable: float = 0.7
    alarm: float = 0.001
    copies: Contamination = field(default_factory=Contamination)
    max_articles: int = 1000

    def __post_init__(self) -> None:
        if not 0.5 <= self.separable <= 1:
            raise SettingError("separable", self.separable, "must be at least 0.5 and at most 1, such as 0.7")
        if not 0 < self.alarm < 0.5:
            raise SettingError("alarm", self.alarm, "must be over 0 and under 0.5, such as 0.001")
        if self.max_articles < MIN_ARTICLES:
            raise SettingError("max_articles", self.max_articles, f"must be at least {MIN_ARTICLES}")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether val and test share articles, and whether they are distinguishable."""
        if "val" not in subject.splits or not subject.own_test:
            missing = "there is no validation split" if subject.own_test else "the test split is other text than val"
            return finding("none", f"The splits val and test were not checked: {missing}.", self.separable)
        val, test = (self._some(subject.samples[name]) for name in ("val", "test"))
        copied = self.copies(replace(subject, splits={"train": val, "test": test}, max_tokens={}))
        near, share = copied["near_duplicates"], copied["sequences"]["test"]
        separated, chance = self._distinguish(val.documents, test.documents, subject.vocab_size)
        pairs = f"{separated:.0%} of the pairs of a val and a test article can be distinguished"
        verdict: Verdict = "fault"
        if near or share > self.copies.sequences:
            found = f", such as “{near[0]['begins']}…”" if near else ""
            sentence = (
                f"The same text is in val and in test: {len(near)} articles are nearly the same{found}, and "
                f"{share:.1%} of test's 13-word sequences are in val ({self.copies.sequences:.0%} is allowed): what is "
                "chosen on val is chosen on test."
            )
        elif separated > self.separable and chance <= self.alarm:
            sentence = (
                f"Val and test are not the same kind of text: {pairs} by their words ({self.separable:.0%} is allowed, "
                "50% is chance), so figures on val say nothing about test."
            )
        else:
            verdict = "fine"
            counted = f"; {pairs} (50% is chance, {self.separable:.0%} is allowed)" if chance < 1 else ""
            sentence = f"Val and test are disjoint and of the same kind: they share no article{counted}."
        return finding(
            verdict,
            sentence,
            self.separable,
            told_apart=separated,
            probability=chance,
            near_duplicates=near,
            sequences=share,
        )

    def _some(self, split: Split) -> Split:
        return split.only(np.array(evenly(len(split.documents), self.max_articles), dtype=np.int64))

    def _distinguish(self, val: EncodedDocuments, test: EncodedDocuments, vocab_size: int) -> tuple[float, float]:
        """Return the share of pairs that the classifier ranks correctly, and its p-value.

        0.5 and 1 if there are too few articles.
        """
        from scipy.stats import mannwhitneyu

        if min(len(val), len(test)) < MIN_ARTICLES:
            return 0.5, 1.0
        log_odds = np.zeros(vocab_size)
        for sign, documents in ((1, val), (-1, test)):
            counts = np.ones(vocab_size)  # add-one smoothing
            for tokens in _tokens(documents, range(0, len(documents), 2)):
                counts += np.bincount(tokens, minlength=vocab_size)
            log_odds += sign * np.log(counts / counts.sum())
        scores = [
            [float(log_odds[tokens].mean()) for tokens in _tokens(documents, range(1, len(documents), 2))]
            for documents in (val, test)
        ]
        result = mannwhitneyu(*scores, alternative="greater")
        return float(result.statistic) / (len(scores[0]) * len(scores[1])), float(result.pvalue)


def _tokens(documents: EncodedDocuments, indices: Sequence[int]) -> Iterable[NDArray[np.int64]]:
    """Yield the tokens of documents, without [BOS]."""
    return (np.asarray(documents[index][1 : MAX_TOKENS + 1], dtype=np.int64) for index in indices)
