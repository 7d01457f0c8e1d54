"""Against Algorithm 1 of Provilkov et al. (2020), carried out word by word over every possible draw."""

import json
import time
from collections import Counter
from functools import cache

import numpy as np
import pytest

from minillm.corpus import SampleSource
from minillm.tokenization import BPETokenizer
from minillm.tokenization.bpe_dropout import BPEDropout

TEXTS = [article.text for article in SampleSource().articles(100, ())]


@pytest.fixture(scope="module", params=[{}, {"digits": True, "names": 20}], ids=str)
def tokenizer(request: pytest.FixtureRequest) -> BPETokenizer:
    tokenizer = BPETokenizer(**request.param)
    tokenizer.fit(TEXTS, 1000)
    return tokenizer


def distribution(tokenizer: BPETokenizer, word: str, p: float) -> dict[tuple[str, ...], float]:
    """Return the probability of each way to encode a word: the j-th best merge is taken with p^j (1 - p)."""
    merges = json.loads(tokenizer.to_json())["model"]["merges"]
    rank = {tuple(merge): number for number, merge in enumerate(merges)}

    @cache
    def of(pieces: tuple[str, ...]) -> Counter[tuple[str, ...]]:
        places = range(len(pieces) - 1)
        offered = sorted((rank[pieces[n : n + 2]], n) for n in places if pieces[n : n + 2] in rank)
        found = Counter({pieces: p ** len(offered)})
        for better, (_, n) in enumerate(offered):
            merged = (*pieces[:n], pieces[n] + pieces[n + 1], *pieces[n + 2 :])
            for result, probability in of(merged).items():
                found[result] += p**better * (1 - p) * probability  # type: ignore[assignment]
        return found

    return dict(of(tuple(word)))


def test_probability_0_is_plain_encoding(tokenizer: BPETokenizer) -> None:
    long = ["a" * 300, "".join(filter(str.isalpha, TEXTS[0])), "¡-" * 99]
    texts = ["", " ", "\n\n", "🙂 ñandú " * 3, *long, *TEXTS]
    encoded = BPEDropout(tokenizer, 0).encode_batch(texts, np.random.default_rng(0))
    assert [ids.tolist() for ids in encoded] == [plain.ids for plain in tokenizer.encode_batch(texts)]
    assert BPEDropout(tokenizer, 0.1).encode_batch(["", ""], np.random.default_rng(0))[1].tolist() == []


def test_probability_1_spells_bytes(tokenizer: BPETokenizer) -> None:
    [ids] = BPEDropout(tokenizer, 1).encode_batch([TEXTS[0]], np.random.default_rng(0))
    assert len(ids) == len(TEXTS[0].encode())


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_whatever_is_left_out_the_text_stays(tokenizer: BPETokenizer, p: float) -> None:
    plain = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(TEXTS))
    encoded = BPEDropout(tokenizer, p).encode_batch(TEXTS, np.random.default_rng(0))
    assert [tokenizer.decode(ids.tolist()) for ids in encoded] == TEXTS
    assert 1.05 * plain < sum(map(len, encoded)) < 2.5 * plain


def test_a_word_takes_time_in_proportion_to_its_length(tokenizer: BPETokenizer) -> None:
    letters = "".join(letter for text in TEXTS for letter in text if letter.isalpha())
    dropout = BPEDropout(tokenizer, 0.1)

    def seconds(length: int) -> float:
        start = time.process_time()
        [ids] = dropout.encode_batch([letters[:length]], np.random.default_rng(0))
        assert tokenizer.decode(ids.tolist()) == letters[:length]
        return time.process_time() - start

    seconds(100)
    assert seconds(48_000) < 48 * max(seconds(3_000), 0.01)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_each_way_to_encode_a_word_comes_as_often_as_the_algorithm_has_it(tokenizer: BPETokenizer, p: float) -> None:
    times = 20_000
    [ids] = BPEDropout(tokenizer, p).encode_batch([" ciudad" * times], np.random.default_rng(1))
    pieces = [tokenizer.token(i) for i in ids.tolist()]
    starts = [n for n, piece in enumerate(pieces) if piece.startswith("Ġ")]
    seen = Counter(tuple(pieces[a:b]) for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True))
    expected = distribution(tokenizer, "Ġciudad", p)
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) > 10
    assert seen.keys() <= expected.keys()
    for way, probability in expected.items():
        assert abs(seen[way] / times - probability) < 5 * (probability * (1 - probability) / times) ** 0.5 + 1e-9


def test_the_generator_alone_decides(tokenizer: BPETokenizer) -> None:
    dropout = BPEDropout(tokenizer, 0.1)

    def drawn(seed: int) -> list[list[int]]:
        return [ids.tolist() for ids in dropout.encode_batch(TEXTS[:5], np.random.default_rng(seed))]

    assert drawn(0) == drawn(0) != drawn(1)
