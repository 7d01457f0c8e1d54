"""What holds for any text."""

import pytest
import regex
from hypothesis import strategies as st

from minillm.corpus import SampleSource
from minillm.errors import SettingError
from minillm.tokenization import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, BPETokenizer, Tokenizer, WordTokenizer
from minillm.tokenization.word import LETTER, OPENING, SEAM
from tests.properties import EXAMPLES, TEXTS, check_for_any

ARTICLES = [article.text for article in SampleSource().articles(60, ())]
OPTIONS = pytest.mark.parametrize(
    ("digits", "names"), [(False, 0), (True, 0), (False, 20), (True, 20)], ids=["plain", "digits", "names", "both"]
)
KINDS = pytest.mark.parametrize("kind", [WordTokenizer, BPETokenizer], ids=lambda kind: str(kind.kind))
# A single space before the first word, and at the end.
DROPPED = regex.compile(rf"^ (?=[{LETTER}{OPENING}])|(?<! ) \Z")
SURROGATES = st.tuples(TEXTS, st.characters(categories=["Cs"]), TEXTS).map("".join)


def fitted(kind: type[Tokenizer], digits: bool, names: int, texts: list[str] = ARTICLES, size: int = 600) -> Tokenizer:
    tokenizer = kind(digits=digits, names=names)
    tokenizer.fit(texts, size)
    return tokenizer


@EXAMPLES
@OPTIONS
def test_any_text_survives_bpe(digits: bool, names: int, examples: int) -> None:
    tokenizer = fitted(BPETokenizer, digits, names)

    def check(text: str) -> None:
        [(ids, unknown_bytes)] = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == text
        assert unknown_bytes == 0
        assert not {PAD, UNK, BOS, EOS} & set(ids)

    check_for_any(examples, check, TEXTS)


@EXAMPLES
@OPTIONS
@KINDS
def test_any_text_is_encoded_alike_alone_and_in_a_batch_and_never_as_a_special_token(
    kind: type[Tokenizer], digits: bool, names: int, examples: int
) -> None:
    tokenizer = fitted(kind, digits, names)
    loaded = kind.from_json(tokenizer.to_json())

    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        [encoded] = tokenizer.encode_batch([text])
        assert encoded.ids == ids == loaded.encode(text)
        assert not {PAD, BOS, EOS} & set(ids)
        assert all(0 <= token < len(tokenizer) for token in ids)
        # At most every character and the end of each token: no more than spelling the text out takes.
        assert (UNK in ids) == (encoded.unknown_bytes > 0)
        assert encoded.unknown_bytes <= len(text.encode()) + ids.count(UNK)

    check_for_any(examples, check, TEXTS)


@EXAMPLES
@OPTIONS
def test_any_text_of_known_words_survives_and_nothing_changes_the_second_time(
    digits: bool, names: int, examples: int
) -> None:
    def check(texts: list[str]) -> None:
        if not any(text.strip() for text in texts):
            return
        tokenizer = fitted(WordTokenizer, digits, names, texts, 10_000)
        for text in texts:
            ids = tokenizer.encode(text)
            if not text.strip():
                continue  # nothing was learned of it
            assert UNK not in ids
            decoded = tokenizer.decode(ids)
            if SEAM in text:
                continue  # it is no character and dropped, from between spaces too
            assert decoded == DROPPED.sub("", text)
            again = tokenizer.encode(decoded)
            assert UNK in again or tokenizer.decode(again) == decoded

    check_for_any(min(examples, 500), check, st.lists(TEXTS, min_size=1, max_size=4))  # each fits a vocabulary


@EXAMPLES
@OPTIONS
def test_what_the_vocabulary_knows_is_written_as_it_was_between_unknown_words(
    digits: bool, names: int, examples: int
) -> None:
    tokenizer = fitted(WordTokenizer, digits, names)
    words = ["de", "la", "el", "que", "zzzqx", "qqqxk"]
    assert [UNK in tokenizer.encode(word) for word in words] == [False] * 4 + [True] * 2

    def check(chosen: list[str]) -> None:
        shown = ["[UNK]" if word in words[4:] else word for word in chosen]
        assert tokenizer.decode(tokenizer.encode(" ".join(chosen))) == " ".join(shown)

    check_for_any(examples, check, st.lists(st.sampled_from(words), max_size=20))


@KINDS
def test_half_of_a_surrogate_pair_is_refused_in_one_line(kind: type[Tokenizer]) -> None:
    tokenizer = fitted(kind, False, 0)

    def check(text: str) -> None:
        for encode in tokenizer.encode, tokenizer.encode_counting:
            with pytest.raises(SettingError, match=r"^text=.*: is not Unicode") as caught:
                encode(text)
            assert str(caught.value).isprintable()

    check_for_any(50, check, SURROGATES)


@EXAMPLES
@KINDS
def test_any_ids_decode_and_special_tokens_leave_no_trace(kind: type[Tokenizer], examples: int) -> None:
    tokenizer = fitted(kind, False, 0)

    def check(ids: list[int]) -> None:
        text = tokenizer.decode(ids)
        text.encode()
        assert text == tokenizer.decode([token for token in ids if token not in (PAD, BOS, EOS)])
        if UNK not in ids and kind is WordTokenizer:
            assert not any(name in text for name in SPECIAL_TOKENS)

    check_for_any(examples, check, st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
