"""Was the test split looked at?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

FEWEST = 10  # articles of each split: of fewer there are not enough ways to deal them
DRAWN_AT_ONCE = 2**21  # articles: bounds the memory


@dataclass(frozen=True)
class Selection:
    """Compares the test split with the validation split: a network cannot be better on test by more than chance.

    Both are unseen text of the same kind, and what there is to choose (when to stop, which settings) is chosen on val,
    so test is worse if anything. A network that was tuned on test, or learned from it, is better there.

    Some articles are easier than others. Where the training text is at hand, what counts is by how much the network is
    ahead of a bigram model of it, which finds the same articles easy: that tells much smaller leads from chance.

    The articles of both are dealt into two splits of the same sizes at random, over and over; how often test is so much
    better then is the probability of chance: a permutation test, exact whatever the articles are like, with the
    estimate of Phipson and Smyth ("Permutation P-values Should Never Be Zero", 2010).

    One of several runs chosen by its test figure is better there by less than the articles' own spread: nothing can
    show that in one run's figures, and this check does not.

    Args:
        alarm: chance of a false alarm.
        deals: times the articles are dealt; at least 1 / alarm.
        seed: of the deals.

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
        """Return whether test is better than val by more than chance."""
        if "val" not in subject.splits or not subject.own_test:
            missing = "there is no validation split" if subject.own_test else "the test split is other text than val"
            return finding("none", f"Whether test was looked at was not checked: {missing}.", self.alarm)
        val, test = subject.measured["val"].articles, subject.measured["test"].articles
        if min(len(val), len(test)) < FEWEST:
            sentence = f"Whether test was looked at was not checked: val and test need {FEWEST} articles each."
            return finding("none", sentence, self.alarm)
        chance = self._chance(*(self._totals(subject, name) for name in ("val", "test")))
        loss = {"val": val.figures["loss"], "test": test.figures["loss"]}
        shown = f"{loss['test']:.3f} nats per token on test and {loss['val']:.3f} on val"
        if (ahead := self._ahead(subject)) is not None:
            shown += f", which is {ahead['test']:.3f} and {ahead['val']:.3f} ahead of a bigram model"
        if chance > self.alarm:
            sentence = (
                f"Test is no better than chance allows: {shown}; articles dealt at random give test such a lead with a "
                f"probability of {chance:.2g} (under {self.alarm:g} is no chance)."
            )
        else:
            sentence = (
                f"The network does better on test than on val by more than chance: {shown}; articles dealt at random "
                f"give test such a lead with a probability of {chance:.2g} at most ({self.alarm:g} is the limit): test "
                "was learned from or tuned on, or is easier text."
            )
        verdict: Verdict = "fine" if chance > self.alarm else "fault"
        return finding(verdict, sentence, self.alarm, probability=chance, loss=loss, ahead_of_bigram=ahead)

    def _totals(self, subject: Subject, name: str) -> NDArray[np.float64]:
        """Return (N, 2): the nats of each article of a split beyond those of the bigram model, and its tokens."""
        sums = subject.measured[name].articles
        counted = subject.bigram_nats.get(name, np.zeros(len(sums)))
        return np.stack([sums.nats - counted, sums.tokens.astype(np.float64)], axis=1)

    def _ahead(self, subject: Subject) -> dict[str, float] | None:
        """Return by how many nats per token the network is ahead of the bigram model."""
        if not subject.bigram_nats:
            return None
        totals = {name: self._totals(subject, name).sum(axis=0) for name in ("val", "test")}
        return {name: float(-nats / tokens) for name, (nats, tokens) in totals.items()}

    def _chance(self, val: NDArray[np.float64], test: NDArray[np.float64]) -> float:
        """Return the probability that dealt articles give test a lead as large as it has.

        Args:
            val: (N, 2) nats and tokens of each article.
            test: as many columns.
        """
        totals = np.concatenate([val, test])
        if not np.isfinite(totals).all():
            return 1.0  # what diverged leads nowhere
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
            # As large but for rounding: the very deal that is given counts.
            as_large += int((lead(totals[chosen].sum(axis=1)) >= found - 1e-12 * abs(found)).sum())
        return (as_large + 1) / (self.deals + 1)
