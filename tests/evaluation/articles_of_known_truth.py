"""How often intervals cover the truth, by how they are made: `python tests/evaluation/articles_of_known_truth.py`."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.uncertainty import RESAMPLES, intervals


class Texts(NamedTuple):
    """Articles: their length in tokens, how hard each is, its [UNK] tokens and bytes."""

    lengths: np.ndarray
    difficulty: np.ndarray
    unknown: np.ndarray
    bytes: np.ndarray


class World:
    """Where articles come from: lengths have a heavy tail, an article is easy or hard as a whole, long ones are easier.

    Args:
        seed: of what is drawn.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def texts(self, count: int) -> Texts:
        lengths = np.rint(100 * (1 + self.random.pareto(2.5, count))).astype(np.int64)
        difficulty = self.random.normal(0, 0.35, count) - 0.15 * np.log(lengths / 250)
        unknown = self.random.binomial(lengths, 0.1)
        return Texts(lengths, difficulty, unknown, np.rint(lengths * (5.5 + 0.5 * difficulty)).astype(np.int64))

    def scored(self, texts: Texts, better: float | np.ndarray = 0.0) -> ArticleSums:
        """Return what a model reaches on articles, better in nats per token than another one."""
        lengths, difficulty, unknown, size = texts
        nats = lengths * (4 + difficulty - better) + self.random.normal(0, 2.5, len(lengths)) * np.sqrt(lengths)
        hits = self.random.binomial(lengths - unknown, 1 / (1 + np.exp(1.2 + difficulty - better)))
        unknown_hits = self.random.binomial(unknown, 0.5)
        page_ids = np.arange(len(lengths))
        return ArticleSums(page_ids, lengths, nats, hits + unknown_hits, unknown, unknown_hits, size, 7 * unknown)


def others(above: np.ndarray, below: np.ndarray, random: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return the intervals of a ratio that the usual ways give.

    normal: 1.96 linearized standard errors; percentile and BCa: of the bootstrap (Efron & Tibshirani 1993).
    """
    count, value = len(above), above.sum() / below.sum()
    residuals = (above - value * below) / below.sum()
    error = math.sqrt((residuals**2).sum() * count / (count - 1))
    drawn = random.integers(count, size=(RESAMPLES, count))
    ratios = above[drawn].sum(axis=1) / below[drawn].sum(axis=1)
    tails = norm.ppf([0.025, 0.975])
    bias = norm.ppf(np.clip((ratios < value).mean(), 0.001, 0.999))
    acceleration = (residuals**3).sum() / (6 * (residuals**2).sum() ** 1.5)
    shifted = norm.cdf(bias + (bias + tails) / (1 - acceleration * (bias + tails)))
    made = {
        "normal": value + tails * error,
        "t": value + t.ppf([0.025, 0.975], count - 1) * error,
        "percentile": np.quantile(ratios, [0.025, 0.975]),
        "BCa": np.quantile(ratios, shifted),
    }
    return {name: (float(ends[0]), float(ends[1])) for name, ends in made.items()}


def main(trials: int = 2000) -> None:
    """Print the share of intervals that cover the loss and the accuracy of all articles."""
    world = World(99)
    truth = world.scored(world.texts(2_000_000)).figures
    print("| articles | figure | normal | t | percentile | BCa | symmetric bootstrap-t |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for count in 5, 10, 20, 50, 200, 1000:
        world = World(count)
        covered: dict[str, dict[str, int]] = {"loss": {}, "accuracy": {}}
        for _ in range(trials):
            sums = world.scored(world.texts(count))
            own = intervals(sums)
            for figure, times in covered.items():
                made = {**others(*sums.ratios[figure], world.random), "own": (own[figure][0], own[figure][1])}
                for name, (low, high) in made.items():
                    times[name] = times.get(name, 0) + (low <= truth[figure] <= high)
        for figure, times in covered.items():
            print(f"| {count} | {figure} | " + " | ".join(f"{each / trials:.3f}" for each in times.values()) + " |")


if __name__ == "__main__":
    main()
