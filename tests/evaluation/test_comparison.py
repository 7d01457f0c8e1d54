import contextlib
import copy
import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from planted import LENIENT, MAX_LENGTH, honest, texts, tokenizer, train
from rich.console import Console

from minillm.errors import SettingError
from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.comparison import Comparison, compare
from minillm.evaluation.evaluation import Evaluator, write_evaluation
from minillm.evaluation.plots import BAD, GREY, TEST, curves_of_runs
from minillm.evaluation.results import read_evaluation, sealed
from minillm.evaluation.runs import find_runs
from minillm.evaluation.schema import Evaluation
from minillm.evaluation.subject import Split
from minillm.language_model import EncodedTexts, LanguageModel
from minillm.models import MiniGPT
from minillm.tokenization import WordTokenizer

MakeRun = Callable[..., Path]
Evaluated = tuple[Evaluation, dict[str, ArticleSums]]

METRICS = ["test/accuracy", "memory/parameters"]


def with_figures(evaluation: Evaluation, loss: float, accuracy: float) -> Evaluation:
    changed = copy.deepcopy(evaluation)
    changed["splits"]["test"]["loss"] = loss
    changed["splits"]["test"]["accuracy"] = accuracy
    return changed


def on_terminal(comparison: Comparison, width: int) -> list[str]:
    """Return the lines that a terminal of some width shows, without colours and links."""
    shown = io.StringIO()
    comparison.show(Console(file=shown, force_terminal=True, width=width))
    text = re.sub(r"\x1b\]8;[^\x1b]*\x1b\\\\", "", shown.getvalue())
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.fixture
def sweep(evaluation: Evaluation, make_run: MakeRun, tmp_path: Path) -> Path:
    untrusted = with_figures(evaluation, 0.2, 0.97)
    untrusted["trustworthy"] = False
    make_run("sweep/0", with_figures(evaluation, 4.5, 0.25), model__dropout=0.1, seed=1)
    make_run("sweep/1", with_figures(evaluation, 4.1, 0.24), model__dropout=0.3, seed=1)
    make_run("sweep/2", untrusted, data="files", seed=1)
    make_run("sweep/3", model__dropout=0.5, seed=1)
    make_run("sweep/4", evaluation, model__dropout=0.7, seed=1)
    damaged = tmp_path / "sweep/4/evaluation/evaluation.json"
    damaged.write_text(damaged.read_text()[:-50])
    (tmp_path / "sweep" / "multirun.yaml").touch()
    return tmp_path / "sweep"


def names(comparison: Comparison) -> list[str]:
    return [run.folder.name for run in comparison.runs]


def test_the_best_run_comes_first_and_runs_without_figures_last(sweep: Path) -> None:
    assert names(compare([str(sweep)], METRICS, "test/loss"))[:3] == ["2", "1", "0"]
    assert names(compare([str(sweep)], METRICS, "test/accuracy"))[:3] == ["2", "0", "1"]
    assert set(names(compare([str(sweep)], METRICS, "test/accuracy"))[3:]) == {"3", "4"}


def test_settings_that_differ_become_columns_with_the_values_of_all_runs(sweep: Path) -> None:
    comparison = compare([str(sweep)], METRICS, "test/loss")
    assert comparison.header == ["run", "test/loss", *METRICS, "trustworthy", "data", "model.dropout"]
    rows = {row[0]: row[1:] for row in comparison.rows(str)}
    assert rows["0"] == ["4.5", "0.25", "4140032", "yes", "sample", "0.1"]
    assert rows["2"] == ["0.2", "0.97", "4140032", "NO", "files", "0.1"]  # its dropout was not named: the config's
    assert rows["3"] == ["", "", "", "not evaluated", "sample", "0.5"]
    assert rows["4"] == ["", "", "", "damaged", "sample", "0.7"]


def test_a_weak_run_is_trustworthy_and_says_that_it_is_weak(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    evaluation["audit"]["plausibility"]["verdict"] = "weak"
    make_run("a", evaluation)
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert comparison.runs[0].trustworthy == "yes (weak)"
    assert '<span class="weak">weak</span>' in comparison.html()


def test_an_evaluation_from_before_there_were_verdicts_is_read_with_those_of_today(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    def older(**passed: bool | None) -> Evaluation:
        old: Any = copy.deepcopy(evaluation)
        for name, check in old["audit"].items():
            del check["verdict"]
            check["passed"] = passed.get(name, True)
        old["trustworthy"] = False not in passed.values()
        return sealed(old)  # type: ignore[return-value]

    make_run("fine", older(memorization=None), seed=0)
    make_run("behind a bigram model", older(plausibility=False), seed=1)
    make_run("leaking", older(causality=False, plausibility=None), seed=2)
    runs = {run.folder.name: run.trustworthy for run in compare([str(tmp_path)], METRICS, "test/loss").runs}
    assert runs == {"fine": "yes", "behind a bigram model": "yes (weak)", "leaking": "NO"}
    read = read_evaluation(tmp_path / "leaking")
    assert read is not None
    assert [check["verdict"] for check in (read["audit"]["causality"], read["audit"]["plausibility"])] == [
        "fault",
        "none",
    ]


def test_a_damaged_evaluation_is_named_in_one_line(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    compare([str(sweep)], METRICS, "test/loss")
    assert len(caplog.messages) == 1
    assert str(sweep / "4" / "evaluation" / "evaluation.json") in caplog.text
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize("text", ["[]", "null", '{"schema": 99}', "{}", "\x00", "{"])
def test_whatever_stands_in_the_file_the_other_runs_are_compared(sweep: Path, text: str) -> None:
    (sweep / "4" / "evaluation" / "evaluation.json").write_text(text)
    assert compare([str(sweep)], METRICS, "test/loss").runs[-1].trustworthy == "damaged"


def test_markdown_csv_html_and_terminal_show_the_same_table(sweep: Path, tmp_path: Path) -> None:
    comparison = compare([str(sweep)], METRICS, "test/loss")
    comparison.write(tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        f"comparison.{suffix}" for suffix in ("csv", "html", "md")
    ]
    header, rule, *rows = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert header == "| run | test/loss | test/accuracy | memory/parameters | trustworthy | data | model.dropout |"
    assert rule == "| --- | ---: | ---: | ---: | --- | --- | --- |"
    assert rows[0] == "| 2 | 0.2000 | 0.9700 | 4,140,032 | NO | files | 0.1 |"
    first, *_ = csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text()))
    assert first["run"] == str(sweep / "2")
    assert first["test/loss"] == "0.2"
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert '<tr class="bad">' in page
    assert page.count("<svg") == 2
    shown = [line.split() for line in on_terminal(comparison, 10_000)]
    assert ["2", "0.2000", "0.9700", "4,140,032"] in shown
    assert ["NOT", "TO", "BE", "TRUSTED", "data=files", "model.dropout=0.1"] in shown
    assert ["not", "evaluated", "data=sample", "model.dropout=0.5"] in shown


def test_runs_are_found_in_folders_sweeps_and_globs_each_once(sweep: Path, make_run: MakeRun, tmp_path: Path) -> None:
    single = make_run("train/2026-11-22_10-00-00")
    assert find_runs([str(single)]) == [single]
    assert find_runs([str(tmp_path)]) == [*(sweep / str(number) for number in range(5)), single]
    assert find_runs([f"{sweep}/[01]", f"{sweep}/1", str(sweep / "0")]) == [sweep / "0", sweep / "1"]


def test_no_run_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"runs=.*no run there"):
        compare([str(tmp_path / "empty"), "nowhere/*"], METRICS, "test/loss")


def test_a_figure_that_no_run_has_is_an_error_that_names_close_ones(sweep: Path) -> None:
    with pytest.raises(SettingError, match=r"sort_by=test/acuracy: no run has this figure.*test/accuracy"):
        compare([str(sweep)], METRICS, "test/acuracy")
    with pytest.raises(SettingError, match=r"metrics=test/los:.*test/loss"):
        compare([str(sweep)], ["test/los"], "test/loss")


def test_runs_none_of_which_is_evaluated_are_listed(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("0", seed=0)
    make_run("1", seed=1)
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert {run.trustworthy for run in comparison.runs} == {"not evaluated"}
    assert comparison.html().count("<svg") == 1  # the curves that they logged


def test_cells_of_any_kind_are_shown_as_they_are(evaluation: Evaluation, make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", evaluation, data__path="'<b>|[red]'")
    make_run("b", evaluation, data__path="other")
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert "&#39;&lt;b&gt;|[red]&#39;" in comparison.html()
    assert "<b>\\|[red]" in comparison.markdown()
    assert any("<b>|[red]" in line for line in on_terminal(comparison, 80))


def test_runs_that_differ_in_the_seed_alone_become_one_with_mean_and_spread(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    for name, dropout, seed, loss in ("a", 0.1, 0, 4.0), ("b", 0.1, 1, 4.4), ("c", 0.3, 0, 4.1), ("d", 0.5, 0, 4.9):
        judged = with_figures(evaluation, loss, 0.25)
        judged["trustworthy"] = name != "b"
        make_run(name, judged, model__dropout=dropout, data__seed=seed)
    comparison = compare([str(tmp_path)], ["test/accuracy"], "test/loss", over="data.seed")
    assert comparison.header == ["run", "test/loss", "test/accuracy", "trustworthy", "model.dropout"]
    assert comparison.rows("{:.3f}".format) == [
        ["c", "4.100", "0.250", "yes", "0.3"],
        ["a, b", "4.200 ± 0.283", "0.250 ± 0.000", "NO", "0.1"],
        ["d", "4.900", "0.250", "yes", "0.5"],
    ]
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert [(row["test/loss"], row["test/loss ±"][:5]) for row in rows] == [("4.1", ""), ("4.2", "0.282"), ("4.9", "")]
    with pytest.raises(
        SettingError, match=r"over=data.source: is not what the runs differ in; that is data.seed, model.dropout"
    ):
        compare([str(tmp_path)], [], "test/loss", over="data.source")


def test_a_run_that_was_not_evaluated_shows_what_its_training_logged(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("whole", data__seed=0)
    pruned = make_run("pruned", data__seed=1)
    (pruned / "pruned.txt").write_text("pruned after validation 1: val/loss 6.1000")
    (pruned / "metrics.csv").write_text("epoch,step,val/loss\n0,9,6.2\n0,19,6.1\n")
    comparison = compare([str(tmp_path)], ["test/accuracy"], "val/loss")
    assert comparison.header == ["run", "val/loss", "trustworthy", "data.seed"]
    assert comparison.rows(str) == [["whole", "5.5", "not evaluated", "0"], ["pruned", "6.1", "pruned", "1"]]


def test_a_damaged_table_of_logged_figures_is_named(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    (make_run("a", seed=0) / "metrics.csv").write_text("step,val/loss\n9,much\n")
    compare([str(make_run("b", seed=1).parent)], [], "val/loss")
    [message] = caplog.messages
    assert "metrics.csv: damaged" in message


def test_only_settings_that_can_change_a_figure_are_shown_the_shortest_first(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    for name in "a", "b":
        make_run(
            name,
            evaluation,
            data__source=f"/a/long/way/to/the/texts/{name}",
            data__num_workers=len(name) if name == "a" else 4,
            seed=int(name == "b"),
            model__dropout=0.1,
        )
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert comparison.settings == ["seed", "data.source"]
    # What makes no difference does not part runs that differ in the seed alone.
    assert compare([str(tmp_path)], METRICS, "test/loss", over="data.source").settings == ["seed"]


def test_a_run_that_left_no_figure_is_hidden_unless_asked_for(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("good", evaluation, seed=0)
    (make_run("failed", seed=1) / "metrics.csv").unlink()
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert names(comparison) == ["good"]
    [note] = comparison.notes
    assert note == "1 run without any figure: hidden; failed=true shows what there is."
    assert note in comparison.html()
    asked = compare([str(tmp_path)], METRICS, "test/loss", failed=True)
    assert names(asked) == ["good", "failed"]
    assert asked.notes == []
    with pytest.raises(SettingError, match=r"none of the 1 there has any figure; failed=true lists them"):
        compare([str(tmp_path / "failed")], [], "test/loss")


def test_bits_per_byte_lead_and_the_share_of_unknown_words_stands_beside_what_it_bends(
    run_script: Callable[..., Any], evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("outputs/train/a", evaluation)
    with contextlib.chdir(tmp_path):
        ended = run_script("compare", "runs=outputs/train")
    assert ended.status == 0, ended.stderr
    header, *_ = csv.reader((tmp_path / "outputs/comparison/comparison.csv").read_text().splitlines())
    assert header[:5] == ["run", "test/bits_per_byte", "test/unk_rate", "test/perplexity", "test/accuracy"]
    [row] = csv.DictReader(io.StringIO((tmp_path / "outputs/comparison/comparison.csv").read_text()))
    assert float(row["test/unk_rate"]) == evaluation["data"]["unk_rate"]["test"]


def test_80_columns_show_whole_lines_with_the_figures_beside_the_name(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    for number in range(3):
        path = f"/home/somebody/texts/in/a/folder/deep/down/{number}"
        make_run(f"2026-11-22_10-00-0{number}", evaluation, data__source=path, seed=number, model__dropout=number / 10)
    metrics = [
        "test/unk_rate",
        "test/perplexity",
        "test/accuracy",
        "text/bleu4",
        "memory/parameters",
        "overfitting/gap",
    ]
    comparison = compare([str(tmp_path)], metrics, "test/bits_per_byte")
    lines = on_terminal(comparison, 80)
    assert max(map(len, lines)) <= 80
    [row] = [line.split() for line in lines if line.startswith("2026-11-22_10-00-00")]
    figures = evaluation["splits"]["test"]
    assert row[1:4] == [f"{figures['bits_per_byte']:.4f}", "0.1500", f"{figures['perplexity']:.2f}"]
    assert "No room here for" in "".join(lines)
    assert any("seed=1  model.dropout=0.1" in line for line in lines)
    assert not any("No room" in line for line in on_terminal(comparison, 200))


def test_names_link_to_reports_and_all_loss_curves_are_in_one_picture(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    for number in range(12):
        run = make_run(f"sweep/run {number}", evaluation if number else None, seed=number)
        if number:
            (run / "evaluation" / "report.html").write_text("<p>report")
    comparison = compare([str(tmp_path / "sweep")], METRICS, "test/loss")
    comparison.write(tmp_path / "out" / "of" / "this")
    page = (tmp_path / "out" / "of" / "this" / "comparison.html").read_text()
    links = re.findall(r'<a href="([^"]+)"', page)
    assert len(links) == 11
    assert all((tmp_path / "out" / "of" / "this" / unquote(link)).resolve().is_file() for link in links)
    drawing = page[page.rindex("<svg") :]
    assert drawing.count("run 1<") == 1  # in the legend
    curves = curves_of_runs("val/loss", {f"run {number}": ([0, 1], [6, 5]) for number in range(12)})
    assert len(curves.axes[0].lines) == 12
    colors = [line.get_color() for line in curves.axes[0].lines]
    assert len(set(colors[:10])) == 10
    assert colors[10] == colors[11] == GREY


def test_runs_that_were_not_evaluated_are_grey(evaluation: Evaluation, make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", evaluation, seed=0)
    make_run("bad", {**evaluation, "trustworthy": False}, seed=1)
    make_run("logged", seed=2)
    comparison = compare([str(tmp_path)], [], "val/loss")
    assert [run.trustworthy for run in comparison.runs] == ["NO", "yes", "not evaluated"]
    page = comparison.html()
    points = page[page.index("<svg") : page.index("</svg>")]
    assert [points.count(color) > 0 for color in (TEST, BAD, GREY)] == [True, True, True]
    assert '<tr class="soft">' in page


@pytest.fixture(scope="module")
def models() -> dict[str, Evaluated]:
    """Evaluations on the same text: of two models that differ, one of other words, and one by chance the better."""
    few = WordTokenizer()
    few.fit(texts()["train"], 150)
    torch.manual_seed(2)
    other = MiniGPT(len(few), MAX_LENGTH, embedding_dim=32, num_layers=1, dropout=0.0).eval()
    chosen = {
        "honest": (honest(), tokenizer()),
        "short": (train(texts()["train"], epochs=2), tokenizer()),
        "few": (other, few),
    }
    evaluator = Evaluator(LENIENT, max_new_tokens=2, latency_runs=1, max_articles=1)
    found = {}
    for name, (network, words) in chosen.items():
        splits = {"test": Split(EncodedTexts(texts()["test"], words), texts()["test"])}
        articles: dict[str, ArticleSums] = {}
        evaluation = evaluator(LanguageModel(network, words), splits, "best.ckpt", articles=articles)
        found[name] = evaluation, articles
    noise = np.random.default_rng(0).normal(0, 0.02, len(texts()["test"]))
    found["chance"] = scaled(found["honest"], 1 - 0.001 + noise - noise.mean())
    return found


def scaled(evaluated: Evaluated, factor: float | np.ndarray) -> Evaluated:
    """Return an evaluation with other nats of its articles, or of each of them."""
    evaluation, articles = copy.deepcopy(evaluated)
    sums = articles["test"] = replace(articles["test"], nats=articles["test"].nats * factor)
    for name in "loss", "bits_per_byte", "perplexity":
        evaluation["splits"]["test"][name] = sums.figures[name]
    evaluation["articles_sha256"]["test"] = sums.sha256
    return evaluation, articles


def write(run: Path, evaluated: Evaluated) -> None:
    write_evaluation(evaluated[0], run, articles=evaluated[1])


def test_two_models_that_differ_are_told_apart_and_two_that_hardly_do_are_not(
    models: dict[str, Evaluated], make_run: MakeRun, tmp_path: Path
) -> None:
    for seed, name in enumerate(("honest", "short", "chance", "few")):
        write(make_run(name, seed=seed), models[name])
    comparison = compare([str(tmp_path)], [], "test/loss")
    verdicts = {run.folder.name: each for run, each in zip(comparison.runs, comparison.against, strict=True)}
    assert {name: each.verdict for name, each in verdicts.items()} == {
        "chance": "best",
        "honest": "not distinguishable",
        "short": "differs",
        "few": "other vocabulary",
    }
    difference = verdicts["short"].difference
    assert difference is not None
    figures = {name: evaluation["splits"]["test"] for name, (evaluation, _) in models.items()}
    assert difference.value == pytest.approx(figures["short"]["loss"] - figures["chance"]["loss"])
    assert difference.low < difference.value < difference.high
    text = " ".join(" ".join(on_terminal(comparison, 120)).split())
    for output in text, comparison.markdown(), comparison.html(), comparison.csv():
        assert "not distinguishable" in output or ("not" in output.split() and "distinguishable" in output)
    assert "other vocabulary: figures per token do not compare" in comparison.html()
    by_bytes = compare([str(tmp_path)], [], "test/bits_per_byte")
    assert [each.verdict for each in by_bytes.against] == ["best", "not distinguishable", "differs", "differs"]
    perplexity = compare([str(tmp_path / "honest"), str(tmp_path / "short")], [], "test/perplexity").against[1]
    assert perplexity.difference is not None
    more = figures["short"]["perplexity"] / figures["honest"]["perplexity"] - 1
    assert perplexity.difference.value == pytest.approx(more)


def test_what_cannot_be_compared_says_why(
    models: dict[str, Evaluated], make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reason(change: Callable[[Path, Evaluation, ArticleSums], None]) -> str:
        run = make_run("changed", seed=1)
        evaluation, articles = models["short"]
        change(run, copy.deepcopy(evaluation), articles["test"])
        [best, other] = compare([str(tmp_path / "best"), str(run)], [], "test/bits_per_byte").against
        assert best.verdict == "best"
        assert other.difference is None
        return other.reason

    def changed(**columns: Any) -> Callable[[Path, Evaluation, ArticleSums], None]:
        def change(run: Path, evaluation: Evaluation, articles: ArticleSums) -> None:
            other = replace(articles, **{name: how(getattr(articles, name)) for name, how in columns.items()})
            evaluation["articles_sha256"]["test"] = other.sha256
            write_evaluation(evaluation, run, articles={"test": other})

        return change

    def damaged(run: Path, evaluation: Evaluation, articles: ArticleSums) -> None:
        write_evaluation(evaluation, run, articles={"test": articles})
        path = run / "evaluation" / "articles.parquet"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def missing(run: Path, evaluation: Evaluation, articles: ArticleSums) -> None:
        write_evaluation(evaluation, run)
        (run / "evaluation" / "articles.parquet").unlink(missing_ok=True)

    def older(run: Path, evaluation: Evaluation, articles: ArticleSums) -> None:
        del evaluation["articles_sha256"]  # type: ignore[misc]
        for split in evaluation["splits"].values():
            split.pop("ci95", None)
        write_evaluation(evaluation, run)

    write(make_run("best", seed=0), models["honest"])
    assert reason(changed(page_ids=lambda ids: ids + 1)) == "other articles"
    assert reason(changed(bytes=lambda sizes: sizes + 1)) == "other text"
    some = models["honest"][1]["test"].page_ids[:4]
    assert reason(changed(page_ids=lambda ids: np.where(np.isin(ids, some), ids, ids + 1))) == "too few articles"
    caplog.clear()
    assert reason(damaged) == "no sums"
    assert "articles.parquet: damaged" in caplog.text
    assert reason(missing) == "no sums"
    assert "articles.parquet: is missing; evaluate the run again" in caplog.text
    assert reason(older) == "no sums"


def test_runs_on_samples_of_other_sizes_are_compared_on_the_articles_that_both_have(
    models: dict[str, Evaluated], make_run: MakeRun, tmp_path: Path
) -> None:
    write(make_run("honest", seed=0), models["honest"])
    evaluation, articles = copy.deepcopy(models["short"])
    some = np.random.default_rng(0).permutation(len(articles["test"]))[:20]
    articles["test"] = articles["test"][some]
    evaluation["articles_sha256"]["test"] = articles["test"].sha256
    write(make_run("some", seed=1), (evaluation, articles))
    comparison = compare([str(tmp_path)], [], "test/loss")
    difference = comparison.against[1].difference
    assert difference is not None
    assert difference.articles == 20
    one, other = articles["test"].figures["loss"], models["honest"][1]["test"][some].figures["loss"]
    assert difference.value == pytest.approx(one - other)
    assert "on the 20 articles that both were tested on" in comparison.notes[0]


def test_over_seeds_both_sources_count_and_one_seed_says_nothing(
    models: dict[str, Evaluated], make_run: MakeRun, tmp_path: Path
) -> None:
    seeds = (0.99, 1.0, 1.01)
    for name, dropout in ("honest", 0.1), ("short", 0.2):
        for seed, factor in enumerate(seeds):
            write(make_run(f"{name}{seed}", seed=seed, model__dropout=dropout), scaled(models[name], factor))
    write(make_run("alone", seed=0, model__dropout=0.3), scaled(models["honest"], 0.9))
    comparison = compare([str(tmp_path)], [], "test/loss", over="seed")
    assert [each.verdict for each in comparison.against] == ["one seed", "best", "differs"]
    difference = comparison.against[2].difference
    assert difference is not None
    single = compare([f"{tmp_path}/*1"], [], "test/loss").against[1].difference
    assert single is not None
    assert difference.high - difference.low > 1.5 * (single.high - single.low)
    ends = comparison.intervals[1]
    assert ends is not None
    assert ends[1] - ends[0] > 1.05 * np.diff(models["honest"][0]["splits"]["test"]["ci95"]["loss"])[0]
    assert "over articles and seeds" in comparison.notes[0]


def test_a_run_that_cannot_be_believed_is_no_measure(
    models: dict[str, Evaluated], make_run: MakeRun, tmp_path: Path
) -> None:
    evaluation, articles = copy.deepcopy(models["honest"])
    evaluation["trustworthy"] = False
    evaluation["splits"]["test"]["loss"] = 0.2
    write(make_run("leak", seed=0), (evaluation, articles))
    write(make_run("honest", seed=1), models["honest"])
    write(make_run("short", seed=2), models["short"])
    comparison = compare([str(tmp_path)], [], "test/loss")
    assert names(comparison) == ["leak", "honest", "short"]
    assert [each.verdict for each in comparison.against] == ["", "best", "differs"]
