import json
import random
from pathlib import Path

import pytest

import minillm.corpus.sample
from minillm.errors import SettingError
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


def test_digit_by_digit_no_token_holds_two_and_any_text_decodes_to_itself(articles: list[str]) -> None:
    tokenizer = BPETokenizer(digits=True)
    tokenizer.fit(articles, 2000)
    shown = [tokenizer.token(i) for i in tokenizer.encode("En 1492, 3,14 y H2O")]
    assert [token for token in shown if any(c.isdigit() for c in token)] == ["Ġ1", *"492", "Ġ3", *"142"]
    assert not [token for token in map(tokenizer.token, range(2000)) if sum(c.isdigit() and c < ":" for c in token) > 1]
    for text, encoded in zip(HARD + articles, tokenizer.encode_batch(HARD + articles), strict=True):
        assert tokenizer.decode(encoded.ids) == text


def test_frequent_names_are_one_token_and_every_other_word_stays_in_the_pieces_it_had(articles: list[str]) -> None:
    tokenizer, plain = BPETokenizer(names=100), BPETokenizer()
    tokenizer.fit(articles, 2000)
    plain.fit(articles, 1900)
    assert len(tokenizer) == 2000
    assert [tokenizer.token(i) for i in range(1900)] == [plain.token(i) for i in range(1900)]
    for name in " Estados Unidos", " Nueva York", " Buenos Aires", " Segunda Guerra Mundial":
        assert len(tokenizer.encode(name)) == 1 < len(plain.encode(name))
    for other in " Nueva Jersey", " San Cucufato de Los Montes", "nueva york", "nueva\nestados":
        assert tokenizer.encode(other) == plain.encode(other)
    saved = fewer = 0
    for text, encoded in zip(HARD + articles, tokenizer.encode_batch(HARD + articles), strict=True):
        assert tokenizer.decode(encoded.ids) == text
        # Spelled out again, the names leave what there would be without them.
        spelled = [piece for i in encoded.ids for piece in ([i] if i < 1900 else plain.encode(tokenizer.decode([i])))]
        assert spelled == plain.encode(text)
        saved += len(spelled) - len(encoded.ids)
        fewer += len(spelled) != len(encoded.ids)
    assert saved > 300
    assert fewer > 100


def test_names_that_leave_no_room_for_bytes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"^tokenizer.names=41: vocab_size=300 leaves room for 40 at most$"):
        BPETokenizer(names=41).fit(["hola"], 300)


def test_merges_make_spanish_short(fitted: BPETokenizer, articles: list[str]) -> None:
    tokens = sum(len(encoded.ids) for encoded in fitted.encode_batch(articles))
    assert sum(len(article.encode()) for article in articles) / tokens > 3.4
    assert fitted.decode([fitted.encode(" de")[0]]) == " de"
    assert fitted.token(fitted.encode(" de")[0]) == "Ġde"
