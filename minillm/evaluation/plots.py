"""Plots of an evaluation."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minillm.evaluation.schema import Evaluation

log = logging.getLogger(__name__)

# The colour of lines and text, which pages replace by their own, see `minillm.evaluation.page.svg`.
INK = "#010203"
# Visible on white and on black.
TRAIN, VAL, TEST, BAD, WEAK = "#3f87d6", "#dd8327", "#3c9d63", "#d94a4a", "#c79a1e"
GREY = "#8b949e"
# Colours of runs that colour-blind readers can distinguish (Okabe & Ito, "Color Universal Design", 2008).
RUNS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#b8a900", "#8c6bb1", "#a65628", "#7f7f7f")
MOST_RUNS, MOST_POINTS, LONGEST_NAME = 50, 200, 28
BY_SPLIT = {"train": TRAIN, "val": VAL, "test": TEST}


def read_curves(run: str | Path) -> pd.DataFrame:
    """Return the metrics that a run logged: a column per metric, a row per logged step; empty if there are none.

    Args:
        run: the run's folder.
    """
    path = Path(run, "metrics.csv")
    if path.is_file():
        try:
            curves = pd.read_csv(path).astype(float)
            if "step" not in curves:
                raise ValueError("it has no column step")
            return curves
        except (OSError, ValueError) as error:  # other plots need no curves
            log.warning("%s: damaged (%s)", path, " ".join(str(error).split()))
    return pd.DataFrame({"step": []})


def draw(evaluation: Evaluation, curves: pd.DataFrame) -> dict[str, Figure]:
    """Return all plots that are possible, by name.

    Args:
        evaluation: the content of evaluation.json.
        curves: from `read_curves`.
    """
    figures = {}
    if {"train/loss", "val/loss"} & set(curves):
        figures["loss"] = loss(evaluation, curves)
    if "lr" in curves:
        figures["learning rate"] = learning_rate(curves)
    figures["token frequency"] = token_frequency(evaluation)
    figures["accuracy by frequency"] = accuracy_by_frequency(evaluation)
    figures["calibration"] = calibration(evaluation)
    figures["article lengths"] = article_lengths(evaluation)
    if evaluation["plots"]["funnel"]:
        figures["data funnel"] = funnel(evaluation)
    return figures


def loss(evaluation: Evaluation, curves: pd.DataFrame) -> Figure:
    """Plot the training and validation loss, and the losses of the n-gram models."""
    figure, axes = _axes("step", "nats per token")
    for split in ("train", "val"):
        if (name := f"{split}/loss") in curves:
            points = curves[["step", name]].dropna()
            axes.plot(
                points["step"], points[name], color=BY_SPLIT[split], label=split, marker="." if split == "val" else ""
            )
    for model, baseline in evaluation["baselines"].get("val", {}).items():
        axes.axhline(
            baseline["loss"], color=INK, linewidth=1, linestyle=":" if model == "unigram" else "--", label=model
        )
    _legend(axes)
    return figure


def learning_rate(curves: pd.DataFrame) -> Figure:
    """Plot the learning rate."""
    figure, axes = _axes("step", "learning rate")
    points = curves[["step", "lr"]].dropna()
    axes.plot(points["step"], points["lr"], color=TRAIN)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure


def token_frequency(evaluation: Evaluation) -> Figure:
    """Plot the true and the predicted frequency of each token."""
    figure, axes = _axes("rank of the token", "share of the test tokens")
    unigram = evaluation["plots"]["unigram"]
    axes.loglog(unigram["rank"], unigram["predicted"], color=VAL, label="predicted")
    axes.loglog(unigram["rank"], unigram["true"], color=TEST, label="true")
    _legend(axes)
    return figure


def accuracy_by_frequency(evaluation: Evaluation) -> Figure:
    """Plot the accuracy on common and on rare tokens."""
    figure, axes = _axes("rank of the target", "accuracy")
    buckets = evaluation["bias"]["accuracy_by_frequency"]
    accuracy = [bucket["accuracy"] or 0.0 for bucket in buckets]
    bars = axes.bar(range(len(buckets)), accuracy, tick_label=[bucket["bucket"] for bucket in buckets], color=TEST)
    axes.bar_label(bars, [_percent(bucket["accuracy"]) for bucket in buckets], fontsize=8, color=INK)
    axes.set_ylim(0, max(0.1, 1.15 * max(accuracy, default=0)))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(visible=False, axis="x")
    return figure


def calibration(evaluation: Evaluation) -> Figure:
    """Plot the accuracy at each confidence."""
    figure, axes = _axes("probability of the prediction", "share that is right")
    bins = evaluation["plots"]["calibration"]
    tokens = np.array([each["tokens"] for each in bins])
    edges = np.linspace(0, 1, len(bins) + 1)
    axes.bar(
        edges[:-1], [each["accuracy"] or 0.0 for each in bins], np.diff(edges), align="edge", color=TEST, alpha=0.6
    )
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", label="calibrated")
    axes.stairs(tokens / max(tokens.sum(), 1), edges, color=VAL, label="share of the tokens")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _legend(axes)
    return figure


def article_lengths(evaluation: Evaluation) -> Figure:
    """Plot the lengths of the articles of each split."""
    figure, axes = _axes("tokens in the article", "share of the split's articles")
    lengths = evaluation["plots"]["article_lengths"]
    for split, counts in lengths["articles"].items():
        axes.stairs(np.array(counts) / max(sum(counts), 1), lengths["edges"], color=BY_SPLIT[split], label=split)
    if lengths["edges"][-1] > 10 * lengths["edges"][0]:  # otherwise a log scale would have no labelled ticks
        axes.set_xscale("log")
    _legend(axes)
    return figure


def funnel(evaluation: Evaluation) -> Figure:
    """Plot how many articles were read, dropped for each reason, and kept."""
    figure, axes = _axes("articles", "")
    steps = evaluation["plots"]["funnel"]
    colors = [TEST if name in ("read", "kept") else BAD for name in steps]
    bars = axes.barh(range(len(steps)), list(steps.values()), tick_label=list(steps), color=colors)
    axes.bar_label(bars, [f" {count:,}" for count in steps.values()], fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(right=1.15 * max(steps.values(), default=1))
    axes.grid(visible=False)
    return figure


def runs_by_figure(
    name: str,
    values: Mapping[str, float],
    colors: Mapping[str, str],
    intervals: Mapping[str, tuple[float, float]],
) -> Figure:
    """Plot a point with its interval for each of the first 50 runs; bars from 0 would hide differences.

    Args:
        name: the figure's name.
        values: by run, the best first.
        colors: by run.
        intervals: (low, high) by run, if there is one.
    """
    runs = list(values)[:MOST_RUNS]
    figure, axes = _axes(name, "", height=1 + 0.3 * len(runs))
    for number, run in enumerate(runs):
        if run in intervals:
            axes.hlines(number, *intervals[run], color=colors[run], linewidth=2, alpha=0.6)
        axes.plot(values[run], number, marker="o", color=colors[run])
        axes.annotate(
            f"{values[run]:.4g}",
            (values[run], number),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    # Long names are shortened; the table has them in full.
    names = [run if len(run) <= LONGEST_NAME else f"{run[: LONGEST_NAME - 1]}…" for run in runs]
    axes.set_yticks(range(len(runs)), names)
    axes.set_ylim(len(runs) - 0.5, -0.8)
    axes.margins(x=0.1)
    return figure


def curves_of_runs(name: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Plot the curves of a figure in several runs: the first ten in colour, the others grey in the background.

    Args:
        name: the figure's name.
        curves: steps and values by run, the best first.
    """
    figure, axes = _axes("step", name, height=3.2 + 0.2 * min(len(curves), len(RUNS)))
    lines: list[Line2D] = []
    for number, (run, (steps, values)) in enumerate(curves.items()):
        thinned = slice(None, None, max(1, len(steps) // MOST_POINTS))
        first = number < len(RUNS)
        lines += axes.plot(
            steps[thinned],
            values[thinned],
            color=RUNS[number] if first else GREY,
            label=run,
            linewidth=1.5 if first else 0.7,
            marker="." if len(steps) < 20 else "",
            zorder=2 if first else 1,
        )
    shown = lines[: len(RUNS)]
    figure.legend(handles=shown, loc="outside lower left", frameon=False, labelcolor=INK, fontsize=8)
    return figure


def _axes(x: str, y: str, height: float = 3.2) -> tuple[Figure, Axes]:
    """Return a figure with axes, created without pyplot, which would keep all figures in memory."""
    figure = Figure(figsize=(5, height), layout="constrained")  # the text is readable on a phone
    axes = figure.subplots()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
