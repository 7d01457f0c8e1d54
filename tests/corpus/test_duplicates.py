import random
import re
from typing import Any

import pytest

from minillm.corpus import Article, DuplicateFilter
from minillm.corpus.duplicates import shingles
from minillm.errors import SettingError


def with_words_changed(text: str, share: float, seed: int) -> str:
    words = text.split(" ")
    chooser = random.Random(seed)
    for position in chooser.sample(range(len(words)), round(share * len(words))):
        words[position] = f"palabra{chooser.randrange(10**6)}"
    return " ".join(words)


def test_the_sample_has_no_duplicates(sample: list[Article]) -> None:
    seen = DuplicateFilter().start()
    assert not any(seen.reason(article.text) for article in sample)


def test_the_same_text_again_is_an_exact_duplicate_whatever_its_spacing_and_case(sample: list[Article]) -> None:
    seen = DuplicateFilter().start()
    text = sample[0].text
    assert seen.reason(text) is None
    assert seen.reason(text) == "exact duplicate"
    assert seen.reason(text.upper().replace(" ", "\n").replace(",", " ;")) == "exact duplicate"


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_text_with_few_words_changed_is_a_near_duplicate(sample: list[Article], share: float) -> None:
    seen = DuplicateFilter().start()
    for number, article in enumerate(sample[:100]):
        assert seen.reason(article.text) is None
        assert seen.reason(with_words_changed(article.text, share, number)) == "near duplicate"


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_text_with_many_words_changed_is_none(sample: list[Article], share: float) -> None:
    seen = DuplicateFilter().start()
    for number, article in enumerate(sample[:100]):
        assert seen.reason(article.text) is None
        assert seen.reason(with_words_changed(article.text, share, number)) is None


def test_the_threshold_decides(sample: list[Article]) -> None:
    changed = with_words_changed(sample[0].text, 0.05, 0)
    for threshold, expected in (0.5, "near duplicate"), (0.95, None):
        seen = DuplicateFilter(threshold=threshold).start()
        seen.reason(sample[0].text)
        assert seen.reason(changed) == expected


def test_each_kind_can_be_switched_off(sample: list[Article]) -> None:
    text = sample[0].text
    changed = re.sub("ci", "si", text, count=1)
    for settings, expected in (
        ({"exact": False}, ["near duplicate", "near duplicate"]),
        ({"near": False}, ["exact duplicate", None]),
        ({"exact": False, "near": False}, [None, None]),
    ):
        seen = DuplicateFilter(**settings).start()
        seen.reason(text)
        assert [seen.reason(text), seen.reason(changed)] == expected


def test_a_dropped_text_is_not_compared_with(sample: list[Article]) -> None:
    seen = DuplicateFilter(exact=False).start()
    first, second, third = (with_words_changed(sample[0].text, share, 1) for share in (0, 0.08, 0.16))
    assert [seen.reason(first), seen.reason(second), seen.reason(third)] == [None, "near duplicate", None]


def test_texts_of_few_words_or_none_are_compared_too() -> None:
    seen = DuplicateFilter().start()
    assert [seen.reason(text) for text in ("uno", "uno dos", "uno", "dos", "", "…")] == [
        None,
        None,
        "exact duplicate",
        None,
        None,
        "exact duplicate",
    ]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("threshold", 1.4), ("threshold", 0), ("threshold", float("nan")), ("num_perm", 2), ("shingle_words", 0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value}: must be"):
        DuplicateFilter(**{setting: value})


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_shingles_share_what_the_texts_share(length: int) -> None:
    words = [f"palabra{number}" for number in range(1000)]
    changed = [f"otra{number}" if number % 20 == 0 else word for number, word in enumerate(words)]
    ours, theirs = (set(shingles(text, length).tolist()) for text in (words, changed))
    assert len(ours) == 1000 - length + 1
    assert len(ours & theirs) / len(ours) == pytest.approx(1 - length / 20, abs=0.01)
