import random
import re
from collections.abc import Iterable
from typing import Any

import pytest
from datasketch import MinHash, MinHashLSH

from minillm.corpus import Article, DuplicateFilter
from minillm.corpus.duplicates import MAX_COMPARED, Sketches, shingles
from minillm.errors import SettingError


def with_words_changed(text: str, share: float, seed: int) -> str:
    words = text.split(" ")
    chooser = random.Random(seed)
    for position in chooser.sample(range(len(words)), round(share * len(words))):
        words[position] = f"palabra{chooser.randrange(10**6)}"
    return " ".join(words)


def changed(article: Article, share: float, seed: int) -> str:
    return with_words_changed(article.text, share, seed)


def judged(texts: Iterable[str], **settings: Any) -> list[str | None]:
    return list(DuplicateFilter(**settings).reasons(texts))


def test_the_sample_has_no_duplicates(sample: list[Article]) -> None:
    assert not any(judged(article.text for article in sample))


def test_the_same_text_again_is_an_exact_duplicate_whatever_its_spacing_and_case(sample: list[Article]) -> None:
    text = sample[0].text
    texts = [text, text, text.upper().replace(" ", "\n").replace(",", " ;")]
    assert judged(texts) == [None, "exact duplicate", "exact duplicate"]


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_text_with_few_words_changed_is_a_near_duplicate(sample: list[Article], share: float) -> None:
    texts = [text for n, article in enumerate(sample[:100]) for text in (article.text, changed(article, share, n))]
    assert judged(texts) == [None, "near duplicate"] * 100


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_text_with_many_words_changed_is_none(sample: list[Article], share: float) -> None:
    texts = [text for n, article in enumerate(sample[:100]) for text in (article.text, changed(article, share, n))]
    assert judged(texts) == [None] * 200


def test_the_threshold_decides(sample: list[Article]) -> None:
    texts = [sample[0].text, changed(sample[0], 0.05, 0)]
    assert judged(texts, threshold=0.5) == [None, "near duplicate"]
    assert judged(texts, threshold=0.95) == [None, None]
    assert judged([*texts, texts[0]], threshold=1, exact=False) == [None, None, "near duplicate"]


def test_each_kind_can_be_switched_off(sample: list[Article]) -> None:
    text = sample[0].text
    texts = [text, text, re.sub("ci", "si", text, count=1)]
    assert judged(texts, exact=False) == [None, "near duplicate", "near duplicate"]
    assert judged(texts, near=False) == [None, "exact duplicate", None]
    assert judged(texts, exact=False, near=False) == [None, None, None]


def test_a_dropped_text_is_not_compared_with(sample: list[Article]) -> None:
    texts = [changed(sample[0], share, 1) for share in (0, 0.08, 0.16)]
    assert judged(texts, exact=False) == [None, "near duplicate", None]


def test_a_copy_of_a_near_duplicate_is_one_too(sample: list[Article]) -> None:
    copy = changed(sample[0], 0.05, 1)
    assert judged([sample[0].text, copy, copy.upper()]) == [None, "near duplicate", "near duplicate"]


def in_memory(texts: list[str], threshold: float, num_perm: int) -> list[str | None]:
    """Judge each text against all kept ones in memory, with datasketch's signatures and index."""
    digests: set[str] = set()
    index = MinHashLSH(threshold=threshold, num_perm=num_perm, weights=(0.1, 0.9))
    signatures: dict[int, MinHash] = {}
    reasons: list[str | None] = []
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        signature = MinHash(num_perm, hashfunc=int)
        signature.update_batch(shingles(words, 3))
        candidates = [signatures[key] for key in index.query(signature)]
        if " ".join(words) in digests:
            reasons.append("exact duplicate")
        elif any(signature.jaccard(candidate) >= threshold for candidate in candidates):
            reasons.append("near duplicate")
        else:
            reasons.append(None)
            digests.add(" ".join(words))
            index.insert(number, signature)
            signatures[number] = signature
    return reasons


@pytest.mark.parametrize(("threshold", "num_perm"), [(0.6, 128), (0.4, 64), (0.85, 100)])
def test_the_verdicts_are_those_of_an_index_in_memory(
    sample: list[Article], threshold: float, num_perm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ("BLOCK", 100), ("SORTED_AT_ONCE", 256):  # so that there are several blocks and parts
        monkeypatch.setattr(f"minillm.corpus.duplicates.{name}", value)
    chooser = random.Random(5)
    texts = [article.text for article in sample]
    texts += [
        changed(chooser.choice(sample), chooser.choice([0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.2]), n) for n in range(600)
    ]
    chooser.shuffle(texts)
    found = judged(texts, threshold=threshold, num_perm=num_perm)
    assert found == in_memory(texts, threshold, num_perm)
    assert len(set(found)) == 3


def test_a_paragraph_that_thousands_of_texts_share_does_not_have_each_compared_with_each(
    sample: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0

    def counting(sketches: Sketches, number: int) -> Any:
        nonlocal compared
        compared += 1
        return read(sketches, number)

    read = Sketches._signature
    monkeypatch.setattr(Sketches, "_signature", counting)
    paragraph = sample[0].text[:600]
    words = sorted({word for article in sample for word in article.text.split()})
    chooser = random.Random(1)
    texts = [" ".join([paragraph, *chooser.choices(words, k=90)]) for _ in range(5000)]
    texts += [f"{text} fin" for text in texts[-50:]]
    reasons = judged(texts)
    assert reasons == [None] * 5000 + ["near duplicate"] * 50
    assert 1e5 < compared < 5000 * MAX_COMPARED * 25 / 10  # of 12.5 million pairs


def test_texts_of_few_words_or_none_are_compared_too() -> None:
    assert judged(["uno", "uno dos", "uno", "dos", "", "…"]) == [
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
