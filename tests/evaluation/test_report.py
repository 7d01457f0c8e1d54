import copy
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from matplotlib.lines import Line2D

from minillm.evaluation.plots import draw, read_curves
from minillm.evaluation.report import write_report
from minillm.evaluation.schema import Evaluation

MakeRun = Callable[..., Path]

HOSTILE = "<script>alert('ñ')</script> & \"</pre>\" {{ 7 * 7 }} |"


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def count(self, wanted: str) -> int:
        return sum(tag == wanted for tag, _ in self.tags)


def test_the_report_shows_figures_findings_plots_samples_configuration_and_the_command(
    evaluation: Evaluation, make_run: MakeRun
) -> None:
    run = make_run("run", model__dropout=0.3, data__split="[0.8, 0.1, 0.1]")
    path = write_report(evaluation, run)
    assert path == run / "evaluation" / "report.html"
    page = Page(path)
    for shown in (
        *("perplexity, test70.80 1.20", "bits per byte, test2.4000", "bias variance580,000.1 563,029.6804"),
        *evaluation["findings"],
        *(sample["prompt"] + sample["generated"] for sample in evaluation["text"]["samples"]),
        "max_length: 128",
        "python scripts/train.py model.dropout=0.3 'data.split=[0.8, 0.1, 0.1]'",
        "The original's losses, perplexities and accuracies cannot be next-word prediction on unseen text",
    ):
        assert shown in page.text
    assert page.count("svg") == page.count("figure") == 7
    assert "These figures can be believed" in page.text


def test_an_evaluation_by_itself_names_its_own_command_and_shows_the_curves_of_the_training(
    evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    evaluation["run"] = str(make_run("trained"))
    hydra = {"job": {"name": "evaluate"}, "overrides": {"task": ["ckpt=latest", "data=files"]}}
    (tmp_path / "evaluated" / ".hydra").mkdir(parents=True)
    (tmp_path / "evaluated" / ".hydra" / "hydra.yaml").write_text(yaml.dump({"hydra": hydra}))
    page = Page(write_report(evaluation, tmp_path / "evaluated"))
    assert "Evaluation of trained" in page.text
    assert f"python scripts/evaluate.py ckpt={evaluation['checkpoint']} data=files Configuration" in page.text
    assert page.count("svg") == 7


def test_an_untrustworthy_evaluation_has_a_red_head_that_names_the_failed_checks_alone(
    evaluation: Evaluation, make_run: MakeRun
) -> None:
    finding = "Logits moved by up to 3.2 when only the tokens after them were changed."
    evaluation["trustworthy"] = False
    evaluation["audit"]["causality"]["verdict"] = "fault"
    evaluation["audit"]["causality"]["finding"] = finding
    evaluation["audit"]["plausibility"]["verdict"] = "none"
    path = write_report(evaluation, make_run("run"))
    page = Page(path)
    head = page.text[: page.text.index("Figures figure")]
    assert "These figures are not to be trusted" in head
    assert finding in head
    assert evaluation["audit"]["plausibility"]["finding"] not in head
    assert "can be believed" not in page.text
    assert ("div", {"class": "verdict bad"}) in page.tags
    assert "Not to be trusted" in path.read_text(encoding="utf-8").partition("</title>")[0]


def test_a_weak_evaluation_has_a_yellow_head_that_says_that_its_figures_can_be_believed(
    evaluation: Evaluation, make_run: MakeRun
) -> None:
    evaluation["audit"]["plausibility"] |= {"verdict": "weak", "finding": "Behind a bigram model."}
    page = Page(write_report(evaluation, make_run("run")))
    head = page.text[: page.text.index("Figures figure")]
    assert "can be believed: no check found a fault. They say that little was learned. Behind a bigram" in head
    assert ("div", {"class": "verdict weak"}) in page.tags
    assert all(attributes.get("class") != "bad" for _, attributes in page.tags)


def test_the_file_needs_nothing_but_itself(evaluation: Evaluation, make_run: MakeRun) -> None:
    path = write_report(evaluation, make_run("run"))
    page = Page(path)
    assert page.count("script") == page.count("img") == page.count("iframe") == 0
    assert all(
        not (value or "").startswith(("http", "//", "file"))
        for _, attrs in page.tags
        for value in attrs.values()
        if value and "w3.org" not in value
    )
    styles = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", styles)


def test_texts_of_any_kind_are_shown_as_they_are(evaluation: Evaluation, make_run: MakeRun) -> None:
    evaluation["text"]["samples"] = [{"prompt": HOSTILE, "generated": HOSTILE}]
    evaluation["bias"]["overpredicted"][0]["token"] = HOSTILE
    evaluation["audit"]["causality"]["finding"] = HOSTILE
    evaluation["config"]["data"]["path"] = HOSTILE
    evaluation["data"]["other_text"] = HOSTILE
    page = Page(write_report(evaluation, make_run("run")))
    assert page.count("script") == 0
    assert page.text.count(HOSTILE) == 6
    assert "49" not in page.text.partition("Configuration")[2]


def test_what_the_layout_allows_to_be_missing_may_be_missing(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation["data"]["other_text"] = "my_texts/"
    evaluation["overfitting"] = evaluation["latency"]["token_ms"] = None
    evaluation["splits"] = {"test": evaluation["splits"]["test"]}
    evaluation["baselines"], evaluation["plots"]["funnel"] = {}, {}
    evaluation["bias"]["accuracy_by_frequency"][3]["accuracy"] = evaluation["text"]["bleu4"] = None
    page = Page(write_report(evaluation, tmp_path))
    assert page.count("svg") == 4
    assert "Other text: the test figures are on my_texts/" in page.text
    assert "loss, train– 0.0691" in page.text
    assert "BLEU-4– 0.0026" in page.text
    assert f"python scripts/evaluate.py ckpt={evaluation['checkpoint']}" in page.text


def test_damaged_curves_cost_only_themselves(
    evaluation: Evaluation, make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run("run")
    (run / "metrics.csv").write_text('step,train/loss\n1,"2\n', encoding="utf-8")
    page = Page(write_report(evaluation, run))
    assert page.count("svg") == 5
    assert "metrics.csv: damaged" in caplog.text


def test_the_same_evaluation_makes_the_same_file_and_leaves_matplotlib_alone(
    evaluation: Evaluation, make_run: MakeRun
) -> None:
    before = copy.deepcopy(dict(mpl.rcParams))
    run = make_run("run")
    first = write_report(evaluation, run).read_bytes()
    assert write_report(evaluation, run).read_bytes() == first
    assert dict(mpl.rcParams) == before


def test_a_report_that_cannot_be_written_leaves_the_old_one(evaluation: Evaluation, make_run: MakeRun) -> None:
    run = make_run("run")
    path = write_report(evaluation, run)
    old = path.read_bytes()
    broken: Any = {**evaluation, "bias": {}}
    with pytest.raises(Exception, match=r"accuracy_by_frequency"):
        write_report(broken, run)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def points(line: Line2D) -> list[list[float]]:
    return np.asarray(line.get_xydata()).tolist()


def test_the_plots_hold_the_figures(evaluation: Evaluation, make_run: MakeRun) -> None:
    figures = draw(evaluation, read_curves(make_run("run")))
    assert list(figures) == [
        *("loss", "learning rate", "token frequency", "accuracy by frequency", "calibration"),
        *("article lengths", "data funnel"),
    ]
    lines = {str(line.get_label()): points(line) for line in figures["loss"].axes[0].get_lines()}
    assert list(lines) == ["train", "val", "unigram", "bigram"]
    assert lines["train"] == [[9, 7.9], [19, 6.4], [29, 5.6]]
    assert lines["val"] == [[21, 6.1], [43, 5.5]]
    (rate,) = figures["learning rate"].axes[0].get_lines()
    assert points(rate) == [[9, 0.0003], [19, 0.0002], [29, 0.0001]]
    bars = figures["accuracy by frequency"].axes[0].patches
    heights = [bar.get_path().get_extents(bar.get_patch_transform()).height for bar in bars]
    assert heights == pytest.approx([0.5, 0.2, 0.1, 0.01, 0.4])
