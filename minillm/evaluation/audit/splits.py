"""Are the splits what splits should be: apart from each other, and of the same kind?"""

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

FEWEST = 20  # articles of each split: half of them to learn the difference from, half to try it on
LONGEST = 2000  # tokens of an article that are looked at


@dataclass(frozen=True)
class Splits:
    """Looks for articles that stand in both val and test, and asks whether the two can be told apart.

    What is chosen on val is chosen on test where they share articles; and where they are of different kinds, val says
    nothing about test. (What val and test share with train is for `Contamination`.)

    Whether they can be told apart is asked by a two-sample test with a classifier (Lopez-Paz and Oquab, "Revisiting
    Classifier Two-Sample Tests", 2017): naive Bayes on tokens learns from half of the articles which of them are val's,
    and ranks the other half; the ranks are tested as Mann and Whitney do (1947). Splits dealt at random give ranks at
    random, whatever the articles are like.

    Args:
        separable: share of pairs of a val and a test article that may be told apart: 0.5 is chance. The first
            and the last articles of the sample corpus come to 0.53, those with the fewest and the most digits to 0.998;
            so a split by time, whose parts differ a little, passes.
        alarm: chance of a false alarm, which is asked besides.
        copies: what an article in both is.
        max_articles: articles of each split, evenly over it: bounds the time.

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
        if self.max_articles < FEWEST:
            raise SettingError("max_articles", self.max_articles, f"must be at least {FEWEST}")

    def __call__(self, subject: Subject) -> Finding:
        """Return whether val and test share articles, and whether they can be told apart."""
        if "val" not in subject.splits or not subject.own_test:
            missing = "there is no validation split" if subject.own_test else "the test split is other text than val"
            return finding("none", f"Whether val and test belong together was not checked: {missing}.", self.separable)
        val, test = (self._some(subject.samples[name]) for name in ("val", "test"))
        copied = self.copies(replace(subject, splits={"train": val, "test": test}, max_tokens={}))
        near, share = copied["near_duplicates"], copied["sequences"]["test"]
        told, chance = self._told_apart(val.documents, test.documents, subject.vocab_size)
        pairs = f"of a val and a test article {told:.0%} of the pairs can be told apart"
        verdict: Verdict = "fault"
        if near or share > self.copies.sequences:
            found = f", such as “{near[0]['begins']}…”" if near else ""
            sentence = (
                f"The same text stands in val and in test: {len(near)} articles are nearly the same{found}, and "
                f"{share:.1%} of test's 13-word sequences are in val ({self.copies.sequences:.0%} is allowed): what is "
                "chosen on val is chosen on test."
            )
        elif told > self.separable and chance <= self.alarm:
            sentence = (
                f"Val and test are not the same kind of text: {pairs} by their words ({self.separable:.0%} is allowed, "
                "50% is chance), so figures on val say nothing about test."
            )
        else:
            verdict = "fine"
            counted = f"; {pairs} (50% is chance, {self.separable:.0%} is allowed)" if chance < 1 else ""
            sentence = f"Val and test are apart and of the same kind: they share no article{counted}."
        return finding(
            verdict,
            sentence,
            self.separable,
            told_apart=told,
            probability=chance,
            near_duplicates=near,
            sequences=share,
        )

    def _some(self, split: Split) -> Split:
        return split.only(np.array(evenly(len(split.documents), self.max_articles), dtype=np.int64))

    def _told_apart(self, val: EncodedDocuments, test: EncodedDocuments, vocab_size: int) -> tuple[float, float]:
        """Return which share of pairs can be told apart, and the probability of so many by chance.

        Of too few articles nothing can be told: 0.5, and 1.
        """
        from scipy.stats import mannwhitneyu

        if min(len(val), len(test)) < FEWEST:
            return 0.5, 1.0
        log_odds = np.zeros(vocab_size)
        for sign, documents in ((1, val), (-1, test)):
            counts = np.ones(vocab_size)  # add one
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
    """Yield the tokens of some documents, without [BOS]."""
    return (np.asarray(documents[index][1 : LONGEST + 1], dtype=np.int64) for index in indices)
