"""What both tokenizers promise."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import minillm.corpus.sample
from minillm.errors import OutsideError, SettingError
from minillm.tokenization import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    BPETokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)

KINDS = (WordTokenizer, BPETokenizer)
SAMPLE = Path(minillm.corpus.sample.__path__[0]) / "articles.jsonl"
LITERALS = "Un texto que nombra [PAD], [UNK], [BOS] y [EOS]; [EOS][EOS] dos veces, a[PAD]b pegado."


@pytest.fixture(scope="module")
def articles() -> list[str]:
    return [json.loads(line)["text"] for line in SAMPLE.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.kind)
def fitted(request: pytest.FixtureRequest, articles: list[str]) -> Tokenizer:
    tokenizer: Tokenizer = request.param()
    tokenizer.fit(articles, 1000)
    return tokenizer


def test_the_vocabulary_has_the_size_asked_for_and_opens_with_the_special_tokens(fitted: Tokenizer) -> None:
    assert len(fitted) == 1000
    assert tuple(map(fitted.token, (PAD, UNK, BOS, EOS))) == SPECIAL_TOKENS
    assert len({fitted.token(i) for i in range(1000)}) == 1000


@pytest.mark.parametrize("token_id", [-1, 1000])
def test_an_id_outside_the_vocabulary_has_no_token(fitted: Tokenizer, token_id: int) -> None:
    with pytest.raises(IndexError, match=str(token_id)):
        fitted.token(token_id)


def test_encoding_adds_no_special_token_and_a_batch_is_encoded_like_its_texts(
    fitted: Tokenizer, articles: list[str]
) -> None:
    batch = fitted.encode_batch(articles[:50])
    assert [encoded.ids for encoded in batch] == [fitted.encode(text) for text in articles[:50]]
    assert not {PAD, BOS, EOS} & {i for encoded in batch for i in encoded.ids}
    assert fitted.encode_batch([]) == []
    assert fitted.encode("") == []


@pytest.mark.parametrize("options", [{}, {"digits": True}, {"digits": True, "names": 20}])
@pytest.mark.parametrize("kind", [WordTokenizer, BPETokenizer])
def test_every_character_is_encoded_in_a_batch_as_it_is_alone(
    kind: type[Tokenizer], options: dict[str, Any], articles: list[str]
) -> None:
    tokenizer = kind(**options)
    tokenizer.fit(articles[:60], 700)
    surrogates = range(0xD800, 0xE000)
    characters = [chr(n) for n in [*range(0x3000), *range(0x3000, 0x110000, 211)] if n not in surrogates]
    texts = [f"a{c}1{c}!{c} {c}  {c}{c}\nB{c} 2 {c} Nueva York{c}" for c in characters]
    for text, encoded in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert encoded.ids == tokenizer.encode(text), ascii(text)
        offsets = tokenizer._native.encode(text, add_special_tokens=False).offsets
        hidden = [text[a:b] for token, (a, b) in zip(encoded.ids, offsets, strict=True) if token == UNK]
        assert encoded.unknown_bytes == sum(len(part.encode()) + 1 for part in hidden), ascii(text)


@pytest.mark.parametrize("kind", [WordTokenizer, BPETokenizer])
def test_the_cache_of_pieces_is_cleared_when_it_is_full_or_the_vocabulary_changes(
    kind: type[Tokenizer], articles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minillm.tokenization.tokenizer.CACHE_SIZE", 50)
    tokenizer = kind()
    for vocab_size in 400, 700:
        tokenizer.fit(articles[:30], vocab_size)
        encoded = tokenizer.encode_batch(articles[:30])
        assert [document.ids for document in encoded] == [tokenizer.encode(text) for text in articles[:30]]
        assert pickle.loads(pickle.dumps(tokenizer)).encode_batch(articles[:2]) == encoded[:2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_of_special_tokens_in_a_text_are_text(kind: type[Tokenizer]) -> None:
    tokenizer = kind()
    tokenizer.fit([LITERALS] * 100, 400)
    for candidate in (tokenizer, kind.from_json(tokenizer.to_json())):
        ids = candidate.encode(LITERALS)
        assert not set(ids) & {PAD, UNK, BOS, EOS}
        assert candidate.decode(ids) == LITERALS


def test_decoding_leaves_out_padding_and_brackets_and_shows_unknown_tokens(fitted: Tokenizer) -> None:
    assert fitted.decode([BOS, *fitted.encode("de la"), EOS, PAD, PAD]) == "de la"
    assert fitted.decode([UNK]) == "[UNK]"
    assert fitted.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_knows_only_the_text_that_it_was_fitted_on(kind: type[Tokenizer]) -> None:
    tokenizer = kind()
    tokenizer.fit(["zarigüeya zarigüeya"], 1000)
    tokenizer.fit(["casa casa"], 1000)
    assert len(tokenizer.encode("casa")) == 1
    assert tokenizer.encode("zarigüeya") == [UNK] or len(tokenizer.encode("zarigüeya")) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_texts_does_not_matter(kind: type[Tokenizer], articles: list[str]) -> None:
    forward, backward = kind(), kind()
    forward.fit(iter(articles[:100]), 2000)
    backward.fit(reversed(articles[:100]), 2000)
    assert forward.to_json() == backward.to_json()


def test_two_processes_fit_the_same_vocabulary(articles: list[str]) -> None:
    program = (
        "import json, sys, zlib; from minillm.tokenization import *\n"
        "texts = [json.loads(line)['text'] for line in open(sys.argv[1], encoding='utf-8')]\n"
        "for tokenizer in (WordTokenizer(), BPETokenizer()):\n"
        "    tokenizer.fit(texts, 3000); print(zlib.crc32(tokenizer.to_json().encode()))\n"
    )
    command = [sys.executable, "-c", program, str(SAMPLE)]
    first, second = (
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True)
        for seed in ("1", "2")
    )
    assert first.stdout == second.stdout
    assert len(set(first.stdout.split())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_encodes_without_a_warning() -> None:
    program = (
        "import os; from minillm.tokenization import BPETokenizer\n"
        "tokenizer = BPETokenizer(); tokenizer.fit(['hola mundo'] * 9, 300); tokenizer.encode_batch(['hola'] * 99)\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(len(tokenizer.encode_batch(['hola'] * 99)))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.environ.get('TOKENIZERS_PARALLELISM'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["99", "None"]
    assert done.stderr == ""


def test_a_saved_tokenizer_comes_back_as_it_was(fitted: Tokenizer, articles: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("what was there before", "utf-8")
    fitted.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    for loaded in (type(fitted).load(path), load_tokenizer(path.read_text("utf-8"))):
        assert type(loaded) is type(fitted)
        assert loaded.to_json() == fitted.to_json()
        assert loaded.encode_batch(articles) == fitted.encode_batch(articles)
        assert loaded.describe() == fitted.describe()


def test_the_file_is_complete_for_the_tokenizers_library_alone(
    fitted: Tokenizer, articles: list[str], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "tokenizer.json")
    native = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = fitted.encode(articles[0])
    assert native.encode(articles[0]).ids == ids
    assert native.decode(ids) == fitted.decode(ids)


def test_the_two_kinds_describe_themselves_differently() -> None:
    assert WordTokenizer().describe() == {"kind": "word", "version": 1}
    assert BPETokenizer().describe() == {"kind": "bpe", "version": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"digits": True}, {"names": 3}, {"digits": True, "names": 3}], ids=str)
def test_options_are_described_saved_and_loaded_with_the_tokenizer(
    kind: type[Tokenizer], options: dict[str, int], articles: list[str]
) -> None:
    tokenizer = kind(**options)  # type: ignore[arg-type]
    described = {**kind().describe(), **options}
    assert tokenizer.describe() == described
    articles = articles[:150]
    tokenizer.fit(articles, 1500)
    plain = kind()
    plain.fit(articles, 1500)
    assert tokenizer.encode_batch(articles) != plain.encode_batch(articles)
    loaded = load_tokenizer(tokenizer.to_json())
    found, asked = loaded.describe(), described.get("names", 0)
    # Of the entries for names, BPE needs some for their words; a loaded tokenizer knows those that came to be.
    assert min(1, asked) <= found.get("names", 0) <= asked
    assert {**found, "names": asked} == {**described, "names": asked}
    assert loaded.encode_batch(articles) == tokenizer.encode_batch(articles)
    backward = kind(**options)  # type: ignore[arg-type]
    backward.fit(reversed(articles), 1500)
    assert backward.to_json() == tokenizer.to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_larger_than_the_text_supports_is_as_large_as_it_can_be(
    kind: type[Tokenizer], articles: list[str]
) -> None:
    tokenizer = kind()
    tokenizer.fit(articles[:20], 32000)
    assert kind.smallest < len(tokenizer) < 32000
    assert not any(UNK in encoded.ids for encoded in tokenizer.encode_batch(articles[:20]))


def test_a_number_of_names_under_0_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^names=-1: must be at least 0"):
        WordTokenizer(names=-1)


@pytest.mark.parametrize(("kind", "vocab_size"), [(WordTokenizer, 4), (WordTokenizer, -1), (BPETokenizer, 259)])
def test_a_vocabulary_too_small_is_refused_with_the_least_that_works(kind: type[Tokenizer], vocab_size: int) -> None:
    with pytest.raises(SettingError, match=f"^vocab_size={vocab_size}: .* at least {kind.smallest}$"):
        kind().fit(["hola mundo"], vocab_size)


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_vocabulary_works(kind: type[Tokenizer]) -> None:
    tokenizer = kind()
    tokenizer.fit(["sol sol sol mar"], kind.smallest)
    assert len(tokenizer) == kind.smallest
    assert tokenizer.decode(tokenizer.encode("sol")) == "sol"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], [" ", "\n"]])
def test_no_text_is_refused(kind: type[Tokenizer], texts: list[str]) -> None:
    with pytest.raises(OutsideError, match="no text"):
        kind().fit(texts, 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_while_reading_the_texts_is_raised_and_leaves_the_old_vocabulary(kind: type[Tokenizer]) -> None:
    def texts() -> Iterator[str]:
        yield "hola"
        raise OutsideError("the disk is gone")

    tokenizer = kind()
    tokenizer.fit(["mar y sol"], 300)
    before = tokenizer.to_json()
    with pytest.raises(OutsideError, match="the disk is gone"):
        tokenizer.fit(texts(), 300)
    assert tokenizer.to_json() == before


def damaged() -> Iterator[str]:
    tokenizer = WordTokenizer()
    tokenizer.fit(["mar y sol"], 300)
    good = tokenizer.to_json()
    yield from ("", "{}", "null", "[1, 2]", "hola", "\0", good[:-1], good[: len(good) // 2])
    for old, new in [
        ('"WordLevel"', '"Unigram"'),
        ('"[PAD]":0', '"[PAD]":9'),
        ('"[EOS]"', '"</s>"'),
        ('"y":', '"y":9'),
    ]:
        assert old in good
        yield good.replace(old, new)
    yield tokenizers.Tokenizer(tokenizers.models.Unigram()).to_str()
    yield tokenizers.Tokenizer(tokenizers.models.BPE()).to_str()


@pytest.mark.parametrize("json_text", list(damaged()))
def test_a_damaged_or_foreign_tokenizer_is_refused_in_one_line(json_text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json_text, "utf-8")
    for load in (lambda: load_tokenizer(json_text), lambda: WordTokenizer.load(tmp_path / "tokenizer.json")):
        with pytest.raises(OutsideError, match="tokenizer") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_the_other_kind_is_refused(fitted: Tokenizer) -> None:
    other = BPETokenizer if isinstance(fitted, WordTokenizer) else WordTokenizer
    with pytest.raises(OutsideError, match=f"not a {other.kind} tokenizer"):
        other.from_json(fitted.to_json())


def test_files_that_cannot_be_read_or_written_are_named(fitted: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b"\xe1\xe9")
    for name in ("missing.json", "latin.json", "."):
        with pytest.raises(OutsideError, match="cannot read"):
            WordTokenizer.load(tmp_path / name)
    with pytest.raises(OutsideError, match=r"cannot write .*tokenizer\.json"):
        fitted.save(tmp_path / "missing" / "tokenizer.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutsideError, match="cannot write"):
        fitted.save(tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "latin.json"]
