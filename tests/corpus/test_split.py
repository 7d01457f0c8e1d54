from collections import Counter
from typing import Any

import pytest

from minillm.corpus import SPLITS, split_of
from minillm.corpus.split import check_shares
from minillm.errors import SettingError

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
