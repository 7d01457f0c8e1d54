"""What each article adds to the figures: summed from its windows, and kept beside the evaluation."""

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import MAX_LENGTH, honest, texts, tokenizer
from rich.console import Console

from minillm.console import show_evaluation
from minillm.errors import OutsideError
from minillm.evaluation.article_sums import ARTICLES, ArticleSums, read_articles, write_articles
from minillm.evaluation.differences import COMPARABLE
from minillm.evaluation.evaluation import Evaluator, write_evaluation
from minillm.evaluation.language_modelling import measure
from minillm.evaluation.report import write_report
from minillm.evaluation.results import read_evaluation
from minillm.evaluation.schema import Evaluation
from minillm.evaluation.subject import Split
from minillm.evaluation.uncertainty import intervals
from minillm.language_model import EncodedTexts, LanguageModel
from minillm.tokenization import BOS, EOS, UNK

EVALUATOR = Evaluator(max_new_tokens=2, latency_runs=1, max_articles=1)


def split(articles: list[str]) -> Split:
    return Split(EncodedTexts(articles, tokenizer()), articles)


@pytest.fixture(scope="module")
def evaluated() -> tuple[Evaluation, dict[str, ArticleSums]]:
    articles: dict[str, ArticleSums] = {}
    splits = {name: split(texts()[name]) for name in ("val", "test")}
    model = LanguageModel(honest(), tokenizer())
    return EVALUATOR(model, splits, "runs/best.ckpt", articles=articles), articles


def test_the_windows_of_an_article_come_back_to_it() -> None:
    articles = ["Una frase.", *texts()["test"][:8], "", "Y otra más."]
    sums = measure(honest(), EncodedTexts(articles, tokenizer()), MAX_LENGTH, batch_size=3).articles
    model = LanguageModel(honest(), tokenizer())
    for number, text in enumerate(articles):
        scored = model.score(text)
        assert sums.nats[number] == pytest.approx(scored["nats"], rel=1e-6)
        assert sums.tokens[number] == scored["tokens"]
        assert sums.bytes[number] == scored["bytes"] == len(text.encode())
        ids, hits = [BOS, *tokenizer().encode(text), EOS], np.zeros(0, dtype=bool)
        for start in range(0, len(ids) - 1, MAX_LENGTH):
            window = torch.tensor([ids[start : start + MAX_LENGTH + 1]])
            with torch.no_grad():
                guesses = honest()(window[:, :-1]).argmax(-1)
            hits = np.append(hits, (guesses == window[:, 1:]).numpy())
        unknown = np.array(ids[1:]) == UNK
        found = (sums.hits[number], sums.unknown[number], sums.unknown_hits[number])
        assert found == (hits.sum(), unknown.sum(), (hits & unknown).sum())
    assert max(sums.tokens) > 2 * MAX_LENGTH


def test_the_evaluation_holds_intervals_made_of_the_sums_that_lie_beside_it(
    evaluated: tuple[Evaluation, dict[str, ArticleSums]], tmp_path: Path
) -> None:
    write_evaluation(evaluated[0], tmp_path, articles=evaluated[1])
    evaluation = read_evaluation(tmp_path)
    assert evaluation is not None
    for name in "val", "test":
        sums = read_articles(tmp_path, name, evaluation["articles_sha256"][name])
        ends, figures = intervals(sums), evaluation["splits"][name]
        assert set(figures["ci95"]) == {*COMPARABLE}
        for figure, (low, high) in figures["ci95"].items():
            assert [low, high] == ends[figure]
            assert low < figures[figure] == sums.figures[figure] < high  # type: ignore[literal-required]
    assert (tmp_path / ARTICLES).stat().st_size < 20_000
    page = write_report(evaluation, tmp_path).read_text(encoding="utf-8")
    shown = io.StringIO()
    show_evaluation(evaluation, Console(file=shown, width=80))
    low, high = evaluation["splits"]["test"]["ci95"]["bits_per_byte"]
    assert f"{low:.4f}–{high:.4f}" in page
    assert f"{low:.4f} to {high:.4f}" in shown.getvalue()


def test_of_few_articles_there_is_no_interval_and_none_is_shown(tmp_path: Path) -> None:
    model = LanguageModel(honest(), tokenizer())
    evaluation = EVALUATOR(model, {"test": split(texts()["test"][:4])}, "runs/best.ckpt")
    assert evaluation["splits"]["test"]["ci95"] == {}
    shown = io.StringIO()
    show_evaluation(evaluation, Console(file=shown, width=80))
    assert "95 %" not in shown.getvalue() + write_report(evaluation, tmp_path).read_text(encoding="utf-8")


def test_files_that_are_damaged_or_of_another_evaluation_are_named_in_one_line(
    evaluated: tuple[Evaluation, dict[str, ArticleSums]], tmp_path: Path
) -> None:
    sums = evaluated[1]
    with pytest.raises(OutsideError, match=r"articles.parquet: is missing; evaluate the run again"):
        read_articles(tmp_path, "test", sums["test"].sha256)
    (tmp_path / ARTICLES).parent.mkdir()
    write_articles(sums, tmp_path / ARTICLES)
    whole = (tmp_path / ARTICLES).read_bytes()
    read_articles(tmp_path, "test", sums["test"].sha256)
    for sha256, where in (sums["val"].sha256, "test"), (sums["test"].sha256, "train"):
        with pytest.raises(OutsideError, match=r"articles.parquet: damaged, or of another evaluation"):
            read_articles(tmp_path, where, sha256)
    draw = np.random.default_rng(0)
    broken = [b"", b"PAR1", whole[: len(whole) // 2], b"\x00" * 1000, whole[:-1]]
    for _ in range(20):
        flipped = bytearray(whole)
        flipped[draw.integers(len(whole))] ^= 1 << int(draw.integers(8))
        broken.append(bytes(flipped))
    for content in broken:
        (tmp_path / ARTICLES).write_bytes(content)
        try:
            read = read_articles(tmp_path, "test", sums["test"].sha256)
        except OutsideError:
            continue
        assert read.sha256 == sums["test"].sha256  # a flip of what is not read


def test_the_draws_of_many_articles_take_bounded_memory_and_are_the_same_each_time() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(100, 1000, 50_000)
    sums = ArticleSums(
        np.arange(50_000), lengths, lengths * random.normal(4, 0.3, 50_000), lengths // 4, lengths // 9, lengths // 99,
        5 * lengths, lengths,
    )  # fmt: skip
    tracemalloc.start()
    found = intervals(sums)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all draws at once would be 400 MB
    assert found == intervals(sums)
    # Of so many articles the normal law holds: the error of a ratio is known.
    residuals = sums.nats - sums.figures["loss"] * lengths
    error = np.sqrt((residuals**2).sum()) / lengths.sum()
    assert found["loss"][1] - sums.figures["loss"] == pytest.approx(1.96 * error, rel=0.08)


def test_figures_that_are_no_numbers_have_no_interval() -> None:
    sums = measure(honest(), EncodedTexts(texts()["test"], tokenizer()), MAX_LENGTH).articles
    broken = replace(sums, nats=np.where(np.arange(len(sums)) == 3, np.nan, sums.nats))
    assert set(intervals(broken)) == {"accuracy", "accuracy_without_unknown"}
    nothing = replace(sums, unknown=sums.tokens, bytes=np.zeros_like(sums.bytes))
    assert set(intervals(nothing)) == {"loss", "perplexity", "accuracy"}
