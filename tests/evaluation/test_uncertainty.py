"""Intervals hold what they promise: on articles of known truth, for single runs, for two runs, and over seeds."""

from typing import NamedTuple

import numpy as np
import pytest

from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.uncertainty import compared, intervals

TRIALS = 1000  # a coverage of 0.95 is then measured to 0.007
EXPECTED = pytest.approx(0.95, abs=0.02)


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


@pytest.fixture(scope="module")
def truth() -> dict[str, float]:
    world = World(99)
    return world.scored(world.texts(2_000_000)).figures


@pytest.mark.parametrize("count", [30, 200])
def test_an_interval_covers_the_truth_95_times_in_100(count: int, truth: dict[str, float]) -> None:
    world, covered = World(count), dict.fromkeys(truth, 0)
    for _ in range(TRIALS):
        for figure, (low, high) in intervals(world.scored(world.texts(count))).items():
            covered[figure] += low <= truth[figure] <= high
    assert {figure: times / TRIALS for figure, times in covered.items()} == dict.fromkeys(truth, EXPECTED)


def test_two_equal_models_are_told_apart_5_times_in_100_and_two_others_surer_than_their_figures_say() -> None:
    world, covered, apart, told = World(7), 0, {0.0: 0, 0.06: 0}, 0
    for better in apart:
        for _ in range(TRIALS):
            texts = world.texts(60)
            one, other = world.scored(texts), world.scored(texts, better)
            difference = compared([one], [other], "loss")
            covered += difference.low <= better <= difference.high
            apart[better] += not difference.has_zero
            low, high = intervals(one)["loss"]
            told += not low <= other.figures["loss"] <= high
    assert covered / TRIALS / 2 == EXPECTED
    assert apart[0.0] / TRIALS == pytest.approx(0.05, abs=0.02)
    assert apart[0.06] / TRIALS > 0.25
    assert told < sum(apart.values()) / 3


@pytest.mark.parametrize(("spread", "difference"), [(0.02, 0.0), (0.1, 0.1)])
def test_over_seeds_the_interval_covers_what_all_seeds_and_articles_would_show(
    spread: float, difference: float
) -> None:
    world, covered, alone = World(8), 0, 0
    for _ in range(TRIALS):
        texts = world.texts(50)
        # What one model gains differs from article to article, so that these count too.
        gain = world.random.normal(difference, 0.2, 50)
        ours = [world.scored(texts, each) for each in world.random.normal(0, spread, 4)]
        theirs = [world.scored(texts, gain + each) for each in world.random.normal(0, spread, 4)]
        found = compared(ours, theirs, "loss", over_seeds=True)
        covered += found.low <= difference <= found.high
        articles = compared(ours, theirs, "loss")
        alone += articles.low <= difference <= articles.high
    assert covered / TRIALS == EXPECTED
    if spread > 0.05:
        assert alone / TRIALS < 0.85  # articles alone say more than is known
