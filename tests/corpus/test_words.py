"""Words found and hashed for many texts at once are those that one search of each text finds."""

import re
import zlib

import pytest

from minillm.corpus import Article
from minillm.corpus.words import words_of

ODD = [
    "",
    "...",
    " Ñandú_1 ²x, «İstanbul»; ß Σίσυφος 漢字 ٣ ",
    "math 𝒜𝒷 and 𐌰𐌱, \U0001f600",
    "half \ud800 of a pair",
    "x" * 64 + " " + "y" * 65 + " z" + "ñ" * 5000,
    "ab " * 400_000,
]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_words_and_their_hashes_are_those_of_each_text_alone(sample: list[Article], at_once: int) -> None:
    texts = [*ODD, *(article.text for article in sample[:100]), *ODD[::-1]]
    found = [words for start in range(0, len(texts), at_once) for words in words_of(texts[start : start + at_once])]
    assert len(found) == len(texts)
    for text, words in zip(texts, found, strict=True):
        expected = re.findall(r"\w+", text.lower())
        assert words.spelled == " ".join(expected).encode()
        assert words.hashes.tolist() == [zlib.crc32(word.encode()) for word in expected]
