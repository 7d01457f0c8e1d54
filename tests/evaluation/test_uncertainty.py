"""Intervals hold what they promise: on articles of known truth, for single runs, for two runs, and over seeds."""

import pytest
from articles_of_known_truth import World

from minillm.evaluation.uncertainty import compared, intervals

TRIALS = 1000  # a coverage of 0.95 is then measured to 0.007
EXPECTED = pytest.approx(0.95, abs=0.02)


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
