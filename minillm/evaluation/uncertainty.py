"""Confidence intervals of a split's figures, and of differences between runs, by bootstrap over articles.

A figure is a ratio of two sums over a split's articles, such as nats and tokens. The tokens of an article are not
independent, since an article is easy or hard as a whole, so articles are resampled with replacement, 1,000 times (Efron
& Tibshirani, "An Introduction to the Bootstrap", 1993). Each resample gives a ratio and its distance from the figure in
units of the resample's standard error (of a ratio, linearized: Cochran, "Sampling Techniques", 1977, chapter 6). The
95 % quantile of these distances, times the standard error of the figure, is half the width of the interval: the
symmetric bootstrap-t (Hall, "On symmetric bootstrap confidence intervals", 1988).

It was chosen by experiment: lengths of articles have a heavy tail, and with few articles percentile, BCa and normal
intervals are too narrow; docs/compare.md has the results.

Two runs are compared on the articles that both were tested on: hard articles are hard for both, so the difference is
much more certain than either figure. For several seeds, the variance over articles (of the mean over seeds) and that
over seeds are added (Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", 2021), with the
degrees of freedom of Satterthwaite ("An approximate distribution of estimates of variance components", 1946).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minillm.evaluation.article_sums import ArticleSums

RESAMPLES = 1000
LEVEL = 0.95
MIN_ARTICLES = 5  # with fewer, most resamples have only two or three distinct articles
MAXIMA = {"accuracy": 1.0, "accuracy_without_unknown": 1.0}  # bounds of the intervals
DRAWN_AT_ONCE = 2**20  # articles, which bounds the memory

Ratio = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Each article's part of the numerator and of the denominator, (N,) each."""


class Interval(NamedTuple):
    """A value with its 95 % confidence interval.

    Args:
        value: the measured value.
        low: the lower end.
        high: the upper end.
        articles: number of articles.
    """

    value: float
    low: float
    high: float
    articles: int

    @property
    def has_zero(self) -> bool:
        """Whether the interval includes 0: a difference is then not significant."""
        return self.low <= 0 <= self.high


class IncomparableError(ValueError):
    """Two runs' figures are not comparable; the message says why, in a few words."""


def intervals(sums: ArticleSums, seed: int = 0) -> dict[str, list[float]]:
    """Return the 95 % interval of each figure, as [low, high]; empty for under 5 articles.

    Args:
        sums: the sums per article.
        seed: of the resampling.
    """
    if len(sums) < MIN_ARTICLES:
        return {}
    halves = dict(zip(sums.ratios, half_widths(list(sums.ratios.values()), seed).tolist(), strict=True))
    ends = {
        name: [max(0.0, value - half), min(MAXIMA.get(name, math.inf), value + half)]
        for name, half in halves.items()
        if math.isfinite(value := sums.figures[name]) and math.isfinite(half)
    }
    if "loss" in ends:
        with np.errstate(over="ignore"):
            ends["perplexity"] = np.exp(ends["loss"]).tolist()
    return {name: pair for name, pair in ends.items() if math.isfinite(pair[1])}


def half_widths(ratios: Sequence[Ratio], seed: int = 0) -> NDArray[np.float64]:
    """Return half the width of the 95 % interval of each ratio, all from the same resamples; see the module.

    Args:
        ratios: K of them, all of the same articles.
        seed: of the resampling.

    Returns:
        (K,); NaN if a ratio is NaN.
    """
    articles = len(ratios[0][0])
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = np.empty((len(ratios), 5, articles))
        for column, (above, below) in zip(columns, ratios, strict=True):
            residuals = above - above.sum() / below.sum() * below
            column[:] = residuals, below, residuals**2, residuals * below, below**2
        _, errors = _errors(columns.sum(axis=2), articles)
        flat = columns.reshape(-1, articles).T
        sums = np.concatenate([weights @ flat for weights in _draws(articles, seed)])
        moved, own_errors = _errors(sums.reshape(len(sums), len(ratios), 5), articles)
        distances = np.abs(moved) / own_errors
    halves = np.full(len(ratios), np.nan)
    for number, error in enumerate(errors):
        # A resample of a single article has no standard error.
        usable = distances[np.isfinite(distances[:, number]), number]
        if error == 0:
            halves[number] = 0.0
        elif len(usable):
            halves[number] = np.quantile(usable, LEVEL) * error
    return halves


def compared(
    runs: Sequence[ArticleSums], others: Sequence[ArticleSums], figure: str, seed: int = 0, over_seeds: bool = False
) -> Interval:
    """Return the difference of a figure between two groups of runs, on the articles that all were tested on.

    Args:
        runs: the first group, of which the mean is used.
        others: the second group, which is subtracted; empty: return the mean of the first group.
        figure: loss, perplexity, bits_per_byte, accuracy or accuracy_without_unknown. For perplexity it is the relative
            difference of the geometric means: 0.05 means five per cent more.
        seed: of the resampling.
        over_seeds: whether to add the variance between the runs of a group, which differ in their seeds.

    Raises:
        IncomparableError: the runs have different text or tokens, too few articles in common, or only one seed.
    """
    aligned = shared([*runs, *others])
    ours, theirs = aligned[: len(runs)], aligned[len(runs) :]
    name = "loss" if figure == "perplexity" else figure
    if name != "bits_per_byte" and not (_alike(aligned, "tokens") and _alike(aligned, "unknown")):
        raise IncomparableError("other vocabulary")
    above = np.mean([each.ratios[name][0] for each in ours], axis=0)
    if theirs:
        above = above - np.mean([each.ratios[name][0] for each in theirs], axis=0)
    below = aligned[0].ratios[name][1]  # the same in all runs
    value, half = float(above.sum() / below.sum()), float(half_widths([(above, below)], seed)[0])
    if over_seeds:
        half = _with_seeds(
            half, len(below), [[each.figures[name] for each in group] for group in (ours, theirs) if group]
        )
    low, high = value - half, value + half
    if not all(map(math.isfinite, (low, high))):
        raise IncomparableError("not a number")
    if figure == "perplexity":
        value, low, high = (
            math.expm1(min(each, 700)) if theirs else math.exp(min(each, 700)) for each in (value, low, high)
        )
    return Interval(value, low, high, len(below))


def shared(runs: Sequence[ArticleSums]) -> list[ArticleSums]:
    """Return the articles that all runs were tested on, in the same order.

    Raises:
        IncomparableError: these are under 5, or their texts are not the same.
    """
    aligned = list(runs)
    if not all(np.array_equal(run.page_ids, runs[0].page_ids) for run in runs):
        common = runs[0].page_ids
        for run in runs[1:]:
            common = np.intersect1d(common, run.page_ids)
        for number, run in enumerate(runs):
            _, _, places = np.intersect1d(common, run.page_ids, return_indices=True)
            aligned[number] = run[places]
    if not len(aligned[0]):
        raise IncomparableError("other articles")
    if not _alike(aligned, "bytes"):
        raise IncomparableError("other text")
    if len(aligned[0]) < MIN_ARTICLES:
        raise IncomparableError("too few articles")
    return aligned


def _with_seeds(half: float, articles: int, groups: Iterable[Sequence[float]]) -> float:
    """Return half the width of an interval over articles and seeds.

    Args:
        half: half the width of the interval over articles only.
        articles: number of articles.
        groups: the figures of the runs, for each group: one for a mean, two for a difference of means.
    """
    from scipy.stats import norm, t

    parts = [((half / norm.ppf((1 + LEVEL) / 2)) ** 2, articles - 1)]
    for figures in groups:
        if len(figures) < 2:
            raise IncomparableError("one seed")
        parts.append((float(np.var(figures, ddof=1)) / len(figures), len(figures) - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / each for part, each in parts)
    return float(t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance))


def _alike(runs: Sequence[ArticleSums], name: str) -> bool:
    return all(np.array_equal(getattr(run, name), getattr(runs[0], name)) for run in runs)


def _draws(articles: int, seed: int) -> Iterable[NDArray[np.float64]]:
    """Yield how often each resample contains each article, (resamples, N), in chunks."""
    random = np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, DRAWN_AT_ONCE // articles))
    for first in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - first)
        drawn = random.integers(articles, size=(draws, articles))
        drawn += np.arange(draws)[:, None] * articles
        yield np.bincount(drawn.ravel(), minlength=draws * articles).reshape(draws, articles).astype(np.float64)


def _errors(sums: NDArray[np.float64], articles: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a ratio's distance from the overall ratio, and its standard error.

    Args:
        sums: (..., 5), sums over articles: residuals from the overall ratio, denominators, squared residuals, products
            of residuals and denominators, squared denominators.
        articles: number of articles.
    """
    residual, below, squares, products, below_squares = np.moveaxis(sums, -1, 0)
    moved = residual / below
    variance = np.maximum(squares - 2 * moved * products + moved**2 * below_squares, 0) * articles / (articles - 1)
    return moved, np.sqrt(variance) / below
