import copy
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from minillm.errors import SettingError
from minillm.evaluation.comparison import Comparison, compare
from minillm.evaluation.results import read_evaluation, sealed
from minillm.evaluation.runs import find_runs
from minillm.evaluation.schema import Evaluation

MakeRun = Callable[..., Path]

METRICS = ["test/accuracy", "memory/parameters"]


def with_figures(evaluation: Evaluation, loss: float, accuracy: float) -> Evaluation:
    changed = copy.deepcopy(evaluation)
    changed["splits"]["test"]["loss"] = loss
    changed["splits"]["test"]["accuracy"] = accuracy
    return changed


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
    assert comparison.header == ["run", "trustworthy", "model.dropout", "data", "test/loss", *METRICS]
    rows = {row[0]: row[1:] for row in comparison.rows(str)}
    assert rows["0"] == ["yes", "0.1", "sample", "4.5", "0.25", "4140032"]
    assert rows["2"] == ["NO", "0.1", "files", "0.2", "0.97", "4140032"]  # its dropout was not named: the config's
    assert rows["3"] == ["not evaluated", "0.5", "sample", "", "", ""]
    assert rows["4"] == ["damaged", "0.7", "sample", "", "", ""]


def test_a_weak_run_is_trustworthy_and_says_that_it_is_weak(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    evaluation["audit"]["plausibility"]["verdict"] = "weak"
    make_run("a", evaluation)
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert comparison.runs[0].trustworthy == "yes (weak)"
    assert '<tr class="weak">' in comparison.html()


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
    assert header == "| run | trustworthy | model.dropout | data | test/loss | test/accuracy | memory/parameters |"
    assert rule == "| --- | --- | --- | --- | ---: | ---: | ---: |"
    assert rows[0] == "| 2 | NO | 0.1 | files | 0.2000 | 0.9700 | 4,140,032 |"
    first, *_ = csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text()))
    assert first["run"] == str(sweep / "2")
    assert first["test/loss"] == "0.2"
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert '<tr class="bad">' in page
    assert page.count("<svg") == 1
    terminal = io.StringIO()
    comparison.show(Console(file=terminal))
    shown = [line.split() for line in terminal.getvalue().splitlines()]
    assert ["2", "NO", "0.1", "files", "0.2000", "0.9700", "4,140,032"] in shown
    assert ["3", "not", "evaluated", "0.5", "sample"] in shown


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
    assert "<svg" not in comparison.html()


def test_cells_of_any_kind_are_shown_as_they_are(evaluation: Evaluation, make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", evaluation, data__path="'<b>|[red]'")
    make_run("b", evaluation, data__path="other")
    comparison = compare([str(tmp_path)], METRICS, "test/loss")
    assert "&#39;&lt;b&gt;|[red]&#39;" in comparison.html()
    assert "<b>\\|[red]" in comparison.markdown()
    terminal = io.StringIO()
    comparison.show(Console(file=terminal))
    assert "<b>|[red]" in terminal.getvalue()


def test_runs_that_differ_in_the_seed_alone_become_one_with_mean_and_spread(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    for name, dropout, seed, loss in ("a", 0.1, 0, 4.0), ("b", 0.1, 1, 4.4), ("c", 0.3, 0, 4.1), ("d", 0.5, 0, 4.9):
        judged = with_figures(evaluation, loss, 0.25)
        judged["trustworthy"] = name != "b"
        make_run(name, judged, model__dropout=dropout, data__seed=seed)
    comparison = compare([str(tmp_path)], ["test/accuracy"], "test/loss", over="data.seed")
    assert comparison.header == ["run", "trustworthy", "model.dropout", "test/loss", "test/accuracy"]
    assert comparison.rows("{:.3f}".format) == [
        ["c", "yes", "0.3", "4.100", "0.250"],
        ["a, b", "NO", "0.1", "4.200 ± 0.283", "0.250 ± 0.000"],
        ["d", "yes", "0.5", "4.900", "0.250"],
    ]
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert [(row["test/loss"], row["test/loss ±"][:5]) for row in rows] == [("4.1", ""), ("4.2", "0.282"), ("4.9", "")]
    with pytest.raises(
        SettingError, match=r"over=data.source: is not what the runs differ in; that is model.dropout, data.seed"
    ):
        compare([str(tmp_path)], [], "test/loss", over="data.source")


def test_a_run_that_was_not_evaluated_shows_what_its_training_logged(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("whole", data__seed=0)
    pruned = make_run("pruned", data__seed=1)
    (pruned / "pruned.txt").write_text("pruned after validation 1: val/loss 6.1000")
    (pruned / "metrics.csv").write_text("epoch,step,val/loss\n0,9,6.2\n0,19,6.1\n")
    comparison = compare([str(tmp_path)], ["test/accuracy"], "val/loss")
    assert comparison.header == ["run", "trustworthy", "data.seed", "val/loss"]
    assert comparison.rows(str) == [["whole", "not evaluated", "0", "5.5"], ["pruned", "pruned", "1", "6.1"]]


def test_a_damaged_table_of_logged_figures_is_named(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    (make_run("a", seed=0) / "metrics.csv").write_text("step,val/loss\n9,much\n")
    compare([str(make_run("b", seed=1).parent)], [], "val/loss")
    [message] = caplog.messages
    assert "metrics.csv: damaged" in message
