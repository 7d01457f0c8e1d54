import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

import minillm.corpus.sample
from minillm.tokenization import UNK, WordTokenizer

GOLDEN = {
    "«¿Qué?», dijo.": "« ¿ Qué ? » , dijo .",
    "Son 1.492,5 km (1492).": "Son 1.492,5 km ( 1492 ) .",
    "¡Vaya! Ganó 24-10; perdió 3.º": "¡ Vaya ! Ganó 24 - 10 ; perdió 3 .º",
    "El 59 % de 20 °C": "El 59 ␣% de 20 ␣° C",
    "Un 59% a 20° bajo cero": "Un 59 % a 20 °␣ bajo cero",
    'Dijo "hola" y "adiós".': 'Dijo ␣" hola "␣ y ␣" adiós " .',
    '"Hola", dijo.': '" Hola " , dijo .',
    "La guerra —larga— acabó —por fin—.": "La guerra ␣— larga —␣ acabó ␣— por fin — .",
    "la franco-prusiana, O'Higgins y/o d’Or": "la franco - prusiana , O ' Higgins y / o d ’ Or",
    "El n.º 3, EE.UU. y 44 a. C.": "El n .º 3 , EE .UU . y 44 a . C .",
    "Calló… Luego (12:30) sumó 2 + 2 = 4": "Calló … Luego ( 12:30 ) sumó 2 ␣+␣ 2 ␣=␣ 4",
    "y... nada": "y . . . nada",
    "niño(s), f(x)": "niño( s ) , f( x )",
    "¿Sí?¿No? A ( b ) , c": "¿ Sí ?¿ No ? A (␣ b ␣) ␣, c",
    "Uno.\nDos,tres  cuatro": "Uno . ↵ Dos ,tres ␣␣ cuatro",
}

SPELLED = {  # digit by digit
    "Son 1.492,5 km (1492).": "Son 1 .4 9 2 ,5 km ( 1 4 9 2 ) .",
    "10 000 H2O, A320, 3D, 1980s; 24-10, 12:30": "1 0 ␣0 0 0 H2O , A3 2 0 , 3D , 1 9 8 0s ; 2 4 - 1 0 , 1 2 :3 0",
    "en 1492 2 barcos (3 y 4) 5°, 6  7\n8 9": "en 1 4 9 2 ␣2 barcos ( 3 y 4 ) 5 ° , 6 ␣␣ 7 ↵ 8 ␣9",
}


@pytest.fixture(scope="module")
def articles() -> list[str]:
    path = Path(minillm.corpus.sample.__path__[0]) / "articles.jsonl"
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def fitted(articles: list[str]) -> WordTokenizer:
    tokenizer = WordTokenizer()
    tokenizer.fit(articles, 5000)
    return tokenizer


def knowing(*texts: str, digits: bool = False, names: int = 0) -> WordTokenizer:
    """Return a tokenizer that knows every token of the texts."""
    tokenizer = WordTokenizer(digits, names)
    tokenizer.fit(texts, 10**6)
    return tokenizer


@pytest.mark.parametrize(("text", "tokens"), GOLDEN.items())
def test_a_text_is_parted_into_these_tokens_and_put_together_again(text: str, tokens: str) -> None:
    tokenizer = knowing(text)
    shown = [tokenizer.token(i).replace(" ", "␣").replace("\n", "↵") for i in tokenizer.encode(text)]
    assert " ".join(shown) == tokens
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(("text", "tokens"), SPELLED.items())
def test_numbers_are_spelled_where_that_is_asked_for(text: str, tokens: str) -> None:
    tokenizer = knowing(text, digits=True)
    shown = [tokenizer.token(i).replace(" ", "␣").replace("\n", "↵") for i in tokenizer.encode(text)]
    assert " ".join(shown) == tokens
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_frequent_names_are_one_token_where_that_is_asked_for(articles: list[str]) -> None:
    tokenizer = WordTokenizer(names=50)
    tokenizer.fit(articles, 5000)
    text = "En Nueva York y en los Estados Unidos la Segunda Guerra Mundial, en Nueva Yorkshire no."
    shown = [tokenizer.token(i) for i in tokenizer.encode(text)]
    assert {"Nueva York", "Estados Unidos", "Segunda Guerra Mundial", "Nueva"} <= set(shown)
    assert tokenizer.decode(tokenizer.encode("los Estados Unidos, Nueva York")) == "los Estados Unidos, Nueva York"
    counts = Counter(i for encoded in tokenizer.encode_batch(articles) for i in encoded.ids)
    order = [(-counts[i], tokenizer.token(i)) for i in range(4, len(tokenizer))]
    assert order == sorted(order)


@pytest.mark.parametrize(("digits", "names"), [(False, 0), (True, 0), (True, 200)])
def test_every_article_decodes_to_itself_when_every_token_is_known(
    articles: list[str], digits: bool, names: int
) -> None:
    tokenizer = knowing(*articles, digits=digits, names=names)
    for article, encoded in zip(articles, tokenizer.encode_batch(articles), strict=True):
        assert encoded.unknown_bytes == 0
        assert tokenizer.decode(encoded.ids) == article.strip(" ")


@pytest.mark.parametrize("digits", [False, True])
def test_any_text_decodes_to_itself_but_for_a_single_space_at_its_end_or_before_its_first_word(digits: bool) -> None:
    choose = random.Random(0)
    pieces = [*"aañ1.,:;()«»¿?¡!\"'-—…%°º/[]{}#\n\t\0\u00a0\u0301🙂漢", *" " * 12, "[PAD]", "hola", "1.492,5"]
    texts = ["".join(choose.choices(pieces, k=choose.randrange(30))) for _ in range(3000)]
    tokenizer = knowing("hola", *texts, digits=digits)
    for text in texts:
        kept = re.sub(r"^ (?=[\w\u0301(«¿¡[{])|(?<! ) \Z", "", text)
        assert tokenizer.decode(tokenizer.encode(text)) == kept


def test_a_prompt_may_end_in_a_space(fitted: WordTokenizer) -> None:
    assert fitted.encode("En el año ") == fitted.encode("En el año")
    assert fitted.decode(fitted.encode("En el siglo") + fitted.encode("de")) == "En el siglo de"


def test_ids_run_by_falling_frequency_and_ties_by_code_point(fitted: WordTokenizer, articles: list[str]) -> None:
    assert knowing("b a b Z é z\nc, a").encode("a b\n,Z") == [4, 5, 6, *knowing("b a b Z é z\nc, a").encode(",Z")]
    counts = Counter(i for encoded in fitted.encode_batch(articles) for i in encoded.ids)
    order = [(-counts[i], fitted.token(i)) for i in range(4, len(fitted))]
    assert order == sorted(order)
    assert counts[4999] >= 1


def test_case_is_kept() -> None:
    tokenizer = knowing("La la")
    assert tokenizer.decode(tokenizer.encode("La la")) == "La la"
    assert tokenizer.encode("LA") == [UNK]


def test_words_never_seen_show_as_unknown_with_normal_spacing() -> None:
    tokenizer = knowing("el (día). de, mar")
    assert tokenizer.decode(tokenizer.encode("el gato (pardo), de día.")) == "el [UNK] ([UNK]), de día."


def test_unknown_bytes_are_what_spelling_the_unknown_tokens_out_would_take(
    fitted: WordTokenizer, articles: list[str]
) -> None:
    everything = knowing(*articles)
    known = {fitted.token(i) for i in range(len(fitted))}
    for article, encoded in zip(articles, fitted.encode_batch(articles), strict=True):
        surfaces = [everything.token(i) for i in everything.encode(article)]
        unknown = [surface for surface in surfaces if surface not in known]
        assert encoded.ids.count(UNK) == len(unknown)
        assert encoded.unknown_bytes == len("".join(unknown).encode()) + len(unknown)


def test_unknown_bytes_count_utf8_after_characters_of_any_width() -> None:
    tokenizer = knowing("el de")
    assert tokenizer.encode_batch(["el 🙂 de ñandú", "el de", ""]) == [
        ([tokenizer.encode("el")[0], UNK, tokenizer.encode("de")[0], UNK], (1 + 4 + 1 + 1) + (7 + 1)),
        (tokenizer.encode("el de"), 0),
        ([], 0),
    ]


def test_most_of_the_corpus_is_known(fitted: WordTokenizer, articles: list[str]) -> None:
    ids = [i for encoded in fitted.encode_batch(articles) for i in encoded.ids]
    assert ids.count(UNK) / len(ids) < 0.2
