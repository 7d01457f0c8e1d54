"""What an evaluation costs does not grow with the corpus: figures are over a sample, and every output says so."""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pytest
from planted import MAX_LENGTH, honest, texts, tokenizer
from rich.console import Console

from minillm.console import show_evaluation
from minillm.data.subset import bounded, smallest_hashes
from minillm.errors import SettingError
from minillm.evaluation.audit import Contamination
from minillm.evaluation.evaluation import Evaluator
from minillm.evaluation.report import write_report
from minillm.evaluation.schema import Evaluation
from minillm.evaluation.subject import Split, Subject
from minillm.language_model import EncodedTexts, LanguageModel


def split(articles: Sequence[str]) -> Split:
    return Split(EncodedTexts(articles, tokenizer()), articles)


def chosen_by_hand(articles: Sequence[str], max_tokens: int) -> list[str]:
    """Return the articles with the smallest hashes, one after the other, as long as they fit."""

    def place(text: str) -> bytes:
        identity = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
        return hashlib.sha256(f"evaluation/{identity}".encode()).digest()[:8]

    chosen: set[str] = set()
    for text in sorted(articles, key=place):
        max_tokens -= len(tokenizer().encode(text)) + 1
        if max_tokens < 0:
            break
        chosen.add(text)
    return [text for text in articles if text in chosen]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(honest(), tokenizer(), {"data": {"max_val_tokens": 800}})


@pytest.fixture(scope="module")
def evaluation(model: LanguageModel) -> Evaluation:
    splits = {name: split(articles) for name, articles in texts().items()}
    evaluator = Evaluator(max_new_tokens=4, latency_runs=2, max_tokens=1500, baseline_tokens=5000)
    return evaluator(model, splits, "runs/best.ckpt", reported={})


def test_figures_over_a_sample_are_those_of_its_articles_alone(evaluation: Evaluation, model: LanguageModel) -> None:
    for name, most in ("train", 1500), ("val", 800), ("test", 1500):
        articles = chosen_by_hand(texts()[name], most)
        scored, figures = model.score(articles), evaluation["splits"][name]
        assert figures["tokens"] == scored["tokens"] <= most
        assert figures["bits_per_byte"] == pytest.approx(scored["bits_per_byte"], rel=1e-9)
        assert evaluation["data"]["samples"][name] == {"articles": len(articles), "tokens": scored["tokens"]}
        assert evaluation["data"]["articles"][name] == len(texts()[name])
        assert evaluation["data"]["tokens"][name] == sum(len(tokenizer().encode(text)) + 1 for text in texts()[name])
    assert evaluation["baselines"]["test"]["bigram"]["tokens"] == evaluation["splits"]["test"]["tokens"]


def test_every_output_says_that_it_is_a_sample_and_of_how_much(evaluation: Evaluation, tmp_path: Path) -> None:
    data = evaluation["data"]
    page = write_report(evaluation, tmp_path).read_text(encoding="utf-8")
    shown = io.StringIO()
    show_evaluation(evaluation, Console(file=shown, width=200))
    for name in "train", "val", "test":
        size = data["samples"][name]
        sentence = (
            f"The {name} figures are over a sample: {size['articles']:,} of {data['articles'][name]:,} articles, "
            f"{size['tokens']:,} of {data['tokens'][name]:,} tokens."
        )
        assert sentence in page
        assert sentence in shown.getvalue()


def test_nothing_is_said_of_samples_where_figures_are_over_whole_splits(model: LanguageModel) -> None:
    splits = {"test": split(texts()["test"])}
    whole = Evaluator(max_new_tokens=4, latency_runs=2)(model, splits, "runs/best.ckpt", reported={})
    assert whole["data"]["samples"] == {}
    shown = io.StringIO()
    show_evaluation(whole, Console(file=shown, width=200))
    assert "sample:" not in shown.getvalue()


def test_a_growing_corpus_changes_the_sample_at_its_edge_alone() -> None:
    articles = [*texts()["train"], *texts()["val"]]
    few, many = EncodedTexts(articles[:100], tokenizer()), EncodedTexts(articles, tokenizer())
    before, after = bounded(few, 3000), bounded(many, 3000)
    new = set(many.page_ids.tolist()) - set(few.page_ids.tolist())
    stayed = set(after.page_ids.tolist()) - new
    assert 0 < len(stayed) < len(before) < 100
    assert stayed <= set(before.page_ids.tolist())
    order = np.random.default_rng(0).permutation(len(articles))
    shuffled = bounded(EncodedTexts([articles[place] for place in order], tokenizer()), 3000)
    assert set(shuffled.page_ids.tolist()) == set(after.page_ids.tolist())


def test_a_split_within_the_limit_is_whole_and_one_article_is_always_taken() -> None:
    documents = EncodedTexts(texts()["test"], tokenizer())
    assert smallest_hashes(documents, None) is None
    assert smallest_hashes(documents, int(documents.lengths.sum()) - len(documents)) is None
    assert len(bounded(documents, 1)) == 1


@pytest.mark.parametrize("name", ["max_tokens", "baseline_tokens"])
def test_a_limit_under_one_token_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name}=0: must be at least 1"):
        Evaluator(**{name: 0})  # type: ignore[arg-type]


class Passing(Sequence[str]):
    """Texts that count how often each is read."""

    def __init__(self, articles: Sequence[str]) -> None:
        self.articles, self.read = articles, 0

    def __len__(self) -> int:
        return len(self.articles)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        self.read += 1
        return self.articles[index]

    def __iter__(self) -> Iterator[str]:
        self.read += len(self.articles)
        return iter(self.articles)


def test_contamination_reads_the_training_text_once_and_finds_what_sets_of_words_find() -> None:
    common, given = 3, texts()
    template = "este texto figura en muchos artículos de la enciclopedia y por ello no dice nada de ninguno de ellos"
    test = [f"{template} {text}" if number % 2 else text for number, text in enumerate(given["test"])]
    edited = [" ".join(w for i, w in enumerate(text.split()) if i % 9) for text in test[4:7]]
    train = [f"{text} {template}" if number % 3 == 0 else text for number, text in enumerate(given["train"])]
    passing = Passing([*train, *edited, " ".join(test[20].split()[:40])])
    splits = {"train": Split(EncodedTexts(passing.articles, tokenizer()), passing), "test": split(test)}
    subject = Subject(honest(), len(tokenizer()), MAX_LENGTH, splits)
    found = Contamination(common=common)(subject)
    assert passing.read <= len(passing) + 10  # once, and the few that came near again

    def sequences(text: str, length: int) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return set(zip(*(words[start:] for start in range(length)), strict=False))

    long = set().union(*(sequences(text, 13) for text in passing.articles))
    own = set().union(*(sequences(text, 13) for text in test))
    assert found["sequences"]["test"] == pytest.approx(len(own & long) / len(own))
    spread: dict[tuple[str, ...], int] = {}
    for text in passing.articles:
        for run in sequences(text, 3):
            spread[run] = spread.get(run, 0) + 1
    similar = {}
    for text in test:
        rare = {run for run in sequences(text, 3) if spread.get(run, 0) <= common}
        most = max(len(rare & sequences(other, 3)) for other in passing.articles)
        if most >= 20 and most >= 0.2 * len(rare):
            similar[" ".join(re.findall(r"\w+", text.lower())[:6])] = most / len(rare)
    assert len(similar) >= 3
    assert {copy["begins"]: copy["similarity"] for copy in found["near_duplicates"]} == pytest.approx(similar)
