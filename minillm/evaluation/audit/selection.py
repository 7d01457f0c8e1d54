"""Whether the model was tuned or trained on the test split."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

MIN_ARTICLES = 10  # per split, for enough permutations
DRAWN_AT_ONCE = 2**21  # articles, which bounds the memory


@dataclass(frozen=True)
class Selection:
    """Compares test with validation: a sound network is not better on test by more than chance.

    Both are unseen text of the same kind, and choices (when to stop, which settings) are made on val, so test is rather
    worse. A network that was tuned or trained on test is better there.

    Some articles are easier than others. If the training text is available, the check uses the network's lead over a
    bigram model of it, which finds the same articles easy; that detects much smaller differences.

    It is a permutation test: the articles of both splits are repeatedly divided at random into splits of the same
    sizes, and the share of divisions with such a lead of test is the p-value, exact for any articles, with the estimate
    of Phipson and Smyth ("Permutation P-values Should Never Be Zero", 2010).

    It cannot detect that the best of several runs was selected on test: the effect is smaller than the variance over
    articles.

    Args:
        alarm: probability of a false alarm.
        deals: number of permutations; at least 1 / alarm.
        seed: of the permutations.

    Raises:
        SettingError: a value outside its range.
    """

    alarm: float = 0.001
    deals: int = 1999
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alarm < 0.5:
            raise SettingError("alarm", self.alarm, "must be over 0 and under 0.5, such as 0.001")
        if not 1 / self.alarm - 1 <= self.deals <= 10**6:
            raise SettingError("deals", self.deals, f"must be at least {math.ceil(1 / self.alarm)} and at most 1000000")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether test is better than val by more than chance."""
        if "val" not in subject.splits or not subject.own_test:
            missing = "there is no validation split" if subject.own_test else "the test split is other text than val"
            return finding("none", f"Whether the model was tuned on test was not checked: {missing}.", self.alarm)
        val, test = subject.measured["val"].articles, subject.measured["test"].articles
        if min(len(val), len(test)) < MIN_ARTICLES:
            missing = f"val and test need {MIN_ARTICLES} articles each"
            return finding("none", f"Whether the model was tuned on test was not checked: {missing}.", self.alarm)
        chance = self._chance(*(self._totals(subject, name) for name in ("val", "test")))
        loss = {"val": val.figures["loss"], "test": test.figures["loss"]}
        shown = f"{loss['test']:.3f} nats per token on test and {loss['val']:.3f} on val"
        if (ahead := self._ahead(subject)) is not None:
            shown += f", which is {ahead['test']:.3f} and {ahead['val']:.3f} ahead of a bigram model"
        if chance > self.alarm:
            sentence = (
                f"Test is not better than val beyond chance: {shown}; splitting the articles at random gives test such "
                f"a lead with a probability of {chance:.2g} (under {self.alarm:g} is not chance)."
            )
        else:
            sentence = (
                f"The network is better on test than on val by more than chance: {shown}; splitting the articles at "
                f"random gives test such a lead with a probability of at most {chance:.2g} ({self.alarm:g} is the "
                "limit): the model was trained or tuned on test, or test is easier text."
            )
        verdict: Verdict = "fine" if chance > self.alarm else "fault"
        return finding(verdict, sentence, self.alarm, probability=chance, loss=loss, ahead_of_bigram=ahead)

    def _totals(self, subject: Subject, name: str) -> NDArray[np.float64]:
        """Return each article's nats minus the bigram model's, and its tokens, (N, 2)."""
        sums = subject.measured[name].articles
        counted = subject.bigram_nats.get(name, np.zeros(len(sums)))
        return np.stack([sums.nats - counted, sums.tokens.astype(np.float64)], axis=1)

    def _ahead(self, subject: Subject) -> dict[str, float] | None:
        """Return the network's lead over the bigram model, in nats per token."""
        if not subject.bigram_nats:
            return None
        totals = {name: self._totals(subject, name).sum(axis=0) for name in ("val", "test")}
        return {name: float(-nats / tokens) for name, (nats, tokens) in totals.items()}

    def _chance(self, val: NDArray[np.float64], test: NDArray[np.float64]) -> float:
        """Return the p-value of the permutation test.

        Args:
            val: (N, 2), nats and tokens of each article.
            test: (M, 2), the same.
        """
        totals = np.concatenate([val, test])
        if not np.isfinite(totals).all():
            return 1.0  # the network has diverged
        whole = totals.sum(axis=0)

        def lead(of_test: NDArray[np.float64]) -> NDArray[np.float64]:
            of_val = whole - of_test
            return of_val[..., 0] / of_val[..., 1] - of_test[..., 0] / of_test[..., 1]

        found = float(lead(totals[len(val) :].sum(axis=0)))
        random = np.random.default_rng(self.seed)
        at_once = max(1, DRAWN_AT_ONCE // len(totals))
        as_large = 0
        for first in range(0, self.deals, at_once):
            order = random.random((min(at_once, self.deals - first), len(totals)))
            chosen = order.argpartition(len(test), axis=1)[:, : len(test)]
            # With a tolerance for rounding, so that the given division itself counts.
            as_large += int((lead(totals[chosen].sum(axis=1)) >= found - 1e-12 * abs(found)).sum())
        return (as_large + 1) / (self.deals + 1)
