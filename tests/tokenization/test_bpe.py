import json
import random
from pathlib import Path

import pytest

import minillm.corpus.sample
from minillm.tokenization import UNK, BPETokenizer

HARD = [
    "",
    " ",
    "  dos  espacios  ",
    "\n\n\t\r\n",
    "\0",
    "a\0b",
    "\x07\x1b\x7f",
    "🙂👩‍👩‍👧",
    "e\u0301",
    "\ufeff",
    "\uffff",
    "漢字",
    "[PAD]",
]


@pytest.fixture(scope="module")
def articles() -> list[str]:
    path = Path(minillm.corpus.sample.__path__[0]) / "articles.jsonl"
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def fitted(articles: list[str]) -> BPETokenizer:
    tokenizer = BPETokenizer()
    tokenizer.fit(articles, 5000)
    return tokenizer


def test_every_article_decodes_to_itself(fitted: BPETokenizer, articles: list[str]) -> None:
    for article, encoded in zip(articles, fitted.encode_batch(articles), strict=True):
        assert fitted.decode(encoded.ids) == article
        assert encoded.unknown_bytes == 0
        assert UNK not in encoded.ids


def test_any_string_decodes_to_itself(fitted: BPETokenizer) -> None:
    choose = random.Random(0)
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]  # without surrogates
    texts = ["".join(choose.choices(characters, k=choose.randrange(40))) for _ in range(2000)]
    texts += ["".join(choose.choices(characters[:300], k=40)) for _ in range(2000)]
    for text, encoded in zip(HARD + texts, fitted.encode_batch(HARD + texts), strict=True):
        assert fitted.decode(encoded.ids) == text
        assert not set(encoded.ids) & {0, 1, 2, 3}


def test_a_vocabulary_of_bytes_alone_spells_everything() -> None:
    tokenizer = BPETokenizer()
    tokenizer.fit(["hola"], 260)
    assert len(tokenizer) == 260
    assert len(tokenizer.encode("ñandú 🙂")) == len("ñandú 🙂".encode())
    assert tokenizer.decode(tokenizer.encode("ñandú 🙂")) == "ñandú 🙂"


def test_text_that_supports_fewer_merges_gives_a_smaller_vocabulary() -> None:
    tokenizer = BPETokenizer()
    tokenizer.fit(["sol"], 5000)
    assert len(tokenizer) == 262  # "so" and "sol", or "ol" and "sol"
    assert len(tokenizer.encode("sol")) == 1


def test_merges_make_spanish_short(fitted: BPETokenizer, articles: list[str]) -> None:
    tokens = sum(len(encoded.ids) for encoded in fitted.encode_batch(articles))
    assert sum(len(article.encode()) for article in articles) / tokens > 3.4
    assert fitted.decode([fitted.encode(" de")[0]]) == " de"
    assert fitted.token(fitted.encode(" de")[0]) == "Ġde"
