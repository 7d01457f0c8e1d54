"""Differences between runs and the best one, from sums per article."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from minillm.errors import OutsideError
from minillm.evaluation.article_sums import ArticleSums, read_articles
from minillm.evaluation.page import shown
from minillm.evaluation.runs import Run
from minillm.evaluation.uncertainty import IncomparableError, Interval, compared

log = logging.getLogger(__name__)

# Figures that can be computed from the sums per article, and so compared between runs.
COMPARABLE = ("loss", "perplexity", "bits_per_byte", "accuracy", "accuracy_without_unknown")
# Verdicts of trustworthy runs.
BELIEVED = ("yes", "yes (weak)")
BEST, SAME, NO_SUMS = "best", "not distinguishable", "no sums"
EXPLAINED = {
    "other articles": "other articles: the run was tested on none of those that the best one was tested on.",
    "other text": "other text: the same articles, cleaned otherwise; their figures do not compare.",
    "other vocabulary": "other vocabulary: figures per token do not compare; sort_by=test/bits_per_byte does.",
    "too few articles": "too few articles: under five that both were tested on.",
    "one seed": "one seed: a mean over seeds needs two of them, on either side.",
    NO_SUMS: "no sums: the evaluation has no articles.parquet, which tells article by article; evaluate the run again.",
}


@dataclass(frozen=True)
class Against:
    """A run compared with the best one.

    Args:
        difference: its figure minus the best one's; None: unknown.
        reason: why it is unknown; ``best`` for the best run itself.
        relative: whether the difference is relative, as for perplexity.
    """

    difference: Interval | None
    reason: str = ""
    relative: bool = False

    @property
    def verdict(self) -> str:
        """``differs`` or ``not distinguishable``; if unknown, the reason."""
        if self.difference is None:
            return self.reason
        return SAME if self.difference.has_zero else "differs"

    @property
    def line(self) -> str:
        """The comparison in one line."""
        if self.difference is None:
            return self.reason
        *words, last = self.lines()
        return f"{' '.join(words)} ({last})" if self.difference.has_zero else " ".join([*words, last])

    def lines(self) -> list[str]:
        """Return the comparison as short lines: the difference, or that there is none, and the interval."""
        if self.difference is None:
            return [self.reason] if self.reason else []
        value, low, high, _ = self.difference
        if self.relative:
            first, within = f"{value:+.2%}", f"{low:+.2%} to {high:+.2%}"
        else:
            first, within = _signed(value), f"± {shown((high - low) / 2)}"
        if self.difference.has_zero:
            return [*SAME.split(" "), within if self.relative else f"{first} {within}"]
        return [first, within]


def beside_the_best(runs: Sequence[Run], name: str, over_seeds: bool) -> list[Against]:
    """Return each run compared with the best trustworthy one; empty if there is nothing to compare.

    Args:
        runs: the best first.
        name: of the figure, such as ``test/bits_per_byte``.
        over_seeds: whether rows are means over seeds.
    """
    split, _, figure = name.partition("/")
    candidates = [run for run in runs if run.trustworthy in BELIEVED and name in run.figures]
    if figure not in COMPARABLE or len(candidates) < 2 or not any(split in run.articles_sha256 for run in candidates):
        return []
    # A single seed has no variance, so the best is chosen among rows with several.
    known = [run for run in candidates if run.others] if over_seeds else candidates
    best = (known or candidates)[0]
    ours = _articles(best, split)
    found = {id(best): Against(None, BEST)}
    for run in candidates:
        if run is best:
            continue
        theirs = _articles(run, split)
        if ours is None or theirs is None:
            found[id(run)] = Against(None, NO_SUMS)
            continue
        try:
            found[id(run)] = Against(
                compared(theirs, ours, figure, over_seeds=over_seeds), relative=figure == "perplexity"
            )
        except IncomparableError as error:
            found[id(run)] = Against(None, str(error))
    return [found.get(id(run), Against(None)) for run in runs]


def interval_of(run: Run, name: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a row's figure, over articles and, for several runs, over seeds."""
    if not run.others:
        return run.intervals.get(name)
    split, _, figure = name.partition("/")
    articles = _articles(run, split) if figure in COMPARABLE else None
    if articles is None:
        return None
    try:
        interval = compared(articles, [], figure, over_seeds=True)
    except IncomparableError:
        return None
    return interval.low, interval.high


def notes(beside: Sequence[Against], over_seeds: bool) -> list[str]:
    """Return sentences that explain the differences."""
    sentences = []
    if counts := [each.difference.articles for each in beside if each.difference]:
        count = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        over = "articles and seeds" if over_seeds else "articles"
        sentences.append(
            f"Against the best: the difference and its 95 % interval over {over}, on the {count} articles that both "
            "were tested on."
        )
        if not over_seeds:
            sentences.append("Another seed would change the figures, too: over=seed takes that into account.")
    reasons = {each.reason for each in beside}
    return sentences + [sentence for reason, sentence in EXPLAINED.items() if reason in reasons]


def _articles(run: Run, split: str) -> list[ArticleSums] | None:
    """Return the sums of a split's articles for each run of a row; None if a run has none."""
    found = []
    for each in run.members:
        sha256 = each.articles_sha256.get(split)
        if sha256 is None:
            return None
        try:
            found.append(read_articles(each.folder, split, sha256))
        except OutsideError as error:
            log.warning("%s", error)
            return None
    return found


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{shown(abs(value))}"
