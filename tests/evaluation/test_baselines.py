import json
import math
import random
import zlib
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import minillm.corpus.sample
import minillm.evaluation.baselines
from minillm.errors import OutsideError
from minillm.evaluation.baselines import NgramBaselines
from minillm.tokenization import BOS, EOS, WordTokenizer

V = 30


def made_up(documents: int, seed: int) -> list[list[int]]:
    choose = random.Random(seed)
    return [
        [min(4 + int(choose.expovariate(0.2)), V - 1) for _ in range(choose.randrange(20))] for _ in range(documents)
    ]


def counted(train: list[list[int]], other: list[list[int]]) -> tuple[float, float]:
    """Return the unigram and bigram loss by the formulas, one token at a time."""
    unigram: Counter[int] = Counter()
    bigram: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for document in train:
        tokens = [BOS, *document, EOS]
        for context, target in pairwise(tokens):
            unigram[target] += 1
            bigram[context][target] += 1
    losses: list[tuple[float, float]] = []
    for document in other:
        tokens = [BOS, *document, EOS]
        for context, target in pairwise(tokens):
            p = (unigram[target] + 1) / (sum(unigram.values()) + V)
            after = bigram[context]
            q = (after[target] + len(after) * p) / (sum(after.values()) + len(after)) if after else p
            losses.append((-math.log(p), -math.log(q)))
    return sum(p for p, _ in losses) / len(losses), sum(q for _, q in losses) / len(losses)


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_the_losses_are_those_of_the_formulas(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minillm.evaluation.baselines, "CHUNK", chunk)
    train, other = made_up(40, seed=1), made_up(30, seed=2)
    baselines = NgramBaselines(V)
    baselines.fit(iter(train))
    scores = baselines.score(np.array(document) for document in other)
    for name, loss in zip(("unigram", "bigram"), counted(train, other), strict=True):
        assert scores[name]["loss"] == pytest.approx(loss, rel=1e-12)
        assert scores[name]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-12)
        assert scores[name]["tokens"] == sum(len(document) + 1 for document in other)


def test_probabilities_sum_to_one_after_seen_and_unseen_contexts() -> None:
    baselines = NgramBaselines(V)
    baselines.fit(made_up(20, seed=3))
    everything = np.arange(V)
    assert baselines.unigram(everything).sum() == pytest.approx(1)
    for context in range(V):
        probabilities = baselines.bigram(np.full(V, context), everything)
        assert probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1)
    assert baselines.bigram(np.full(V, EOS), everything) == pytest.approx(baselines.unigram(everything))


def test_an_empty_document_is_one_target() -> None:
    baselines = NgramBaselines(5)
    baselines.fit([[]])
    assert baselines.score([[]])["unigram"] == {
        "loss": pytest.approx(-math.log(2 / 6)),
        "perplexity": pytest.approx(3),
        "tokens": 1,
    }


def test_the_bigram_model_is_ahead_on_spanish() -> None:
    path = Path(minillm.corpus.sample.__path__[0]) / "articles.jsonl"
    articles = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    train = [article for article in articles if zlib.crc32(article.encode()) % 100 < 70]
    other = [article for article in articles if zlib.crc32(article.encode()) % 100 >= 85]
    tokenizer = WordTokenizer()
    tokenizer.fit(train, 5000)
    baselines = NgramBaselines(len(tokenizer))
    baselines.fit(encoded.ids for encoded in tokenizer.encode_batch(train))
    scores = baselines.score(encoded.ids for encoded in tokenizer.encode_batch(other))
    assert 30 < scores["bigram"]["perplexity"] < 0.5 * scores["unigram"]["perplexity"] < 250


def test_no_document_and_foreign_ids_are_refused() -> None:
    baselines = NgramBaselines(V)
    with pytest.raises(OutsideError, match="no document"):
        baselines.fit([])
    with pytest.raises(ValueError, match=f"vocabulary of {V}"):
        baselines.fit([[4, V]])
    baselines.fit([[4, 5]])
    with pytest.raises(OutsideError, match="no document"):
        baselines.score([])
    with pytest.raises(ValueError, match=f"vocabulary of {V}"):
        baselines.score([[-1]])
