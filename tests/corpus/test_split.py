from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st

from minillm.corpus import SPLITS, split_of
from minillm.corpus.split import check_shares
from minillm.errors import SettingError
from tests.properties import EXAMPLES, check_for_any

SHARES = (0.7, 0.15, 0.15)


def test_the_shares_are_met() -> None:
    counts = Counter(split_of(page_id, SHARES) for page_id in range(20_000))
    for split, share in zip(SPLITS, SHARES, strict=True):
        assert counts[split] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_side_is_the_same_in_every_version() -> None:
    expected = "train val test val train train train train train val test train"
    assert " ".join(split_of(page_id, SHARES) for page_id in range(12)) == expected


def test_a_share_of_zero_gets_nothing() -> None:
    assert {split_of(page_id, (1.0, 0.0, 0.0)) for page_id in range(2000)} == {"train"}
    assert {split_of(page_id, (0.5, 0.4999995, 0.0)) for page_id in range(2000)} == {"train", "val"}


@pytest.mark.parametrize(
    "shares",
    [
        [0.9, 0.2, 0.1],
        [0.5, 0.5],
        [1.2, -0.1, -0.1],
        [0, 0.5, 0.5],
        ["a", 0.5, 0.5],
        [float("nan"), 0.5, 0.5],
        0.7,
        None,
    ],
)
def test_shares_that_cannot_work_are_refused(shares: Any) -> None:
    with pytest.raises(SettingError, match=r"^split="):
        check_shares(shares)


def test_thirds_sum_to_one_closely_enough() -> None:
    assert check_shares([0.3333333, 0.3333333, 0.3333333]) == (0.3333333,) * 3


PAGE_IDS = st.integers(-(2**63), 2**63 - 1) | st.integers()
SHARED = st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@EXAMPLES
def test_an_article_leaves_train_for_no_growth_of_its_share_and_a_side_without_share_gets_none(examples: int) -> None:
    def check(page_id: int, shares: tuple[float, ...], more: float) -> None:
        checked = check_shares(shares)
        side = split_of(page_id, checked)
        assert side == split_of(page_id, list(shares))
        assert checked[SPLITS.index(side)] > 0
        train, val, test = checked
        grown = (train + more * val, val - more * val, test)
        order = [SPLITS.index(split_of(page_id, each)) for each in (checked, check_shares(grown))]
        assert order[1] <= order[0]  # towards train, or where it was

    check_for_any(examples, check, PAGE_IDS, SHARED, st.floats(0, 1))


@EXAMPLES
def test_any_shares_are_met_by_any_run_of_articles(examples: int) -> None:
    def check(shares: tuple[float, ...], first: int) -> None:
        counts = Counter(split_of(page_id, shares) for page_id in range(first, first + 1000))
        for split, share in zip(SPLITS, shares, strict=True):
            assert abs(counts[split] - 1000 * share) <= 6 * (1000 * share * (1 - share)) ** 0.5 + 6

    check_for_any(examples // 4, check, SHARED, st.integers(-(2**40), 2**40))


@EXAMPLES
def test_any_shares_work_or_are_refused(examples: int) -> None:
    def check(shares: Any) -> None:
        try:
            checked = check_shares(shares)
        except SettingError:
            return
        assert len(checked) == 3
        assert all(0 <= share <= 1.00001 for share in checked)
        assert split_of(7, checked) in SPLITS

    values = st.floats() | st.integers(-2, 10**400) | st.none() | st.text(max_size=4) | st.booleans()
    check_for_any(examples, check, st.lists(values, max_size=4) | values | SHARED)
