"""Figures over several rounds, and how they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table


class Spread(TypedDict):
    """A figure over the rounds: median, first and third quartile, and each round's value in order."""

    median: float
    low: float
    high: float
    values: list[float]


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles (interpolated linearly) of a figure's rounds.

    >>> spread([4.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.5, 'high': 3.0, 'values': [4.0, 1.0, 2.0]}
    """
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "low": low, "high": high, "values": [float(value) for value in values]}


def ratio(ours: Spread, theirs: Spread) -> Spread:
    """Return ours over theirs, round by round, so that a slow round drops out."""
    return spread([a / b for a, b in zip(ours["values"], theirs["values"], strict=True)])


def overhead(whole: Spread, inner: Spread) -> Spread:
    """Return the share of a time that the inner one does not take, round by round; negative if that took longer."""
    return spread([1 - share for share in ratio(inner, whole)["values"]])


def shown(figure: Spread, form: str = ",.0f", factor: float = 1.0) -> str:
    """Return a median, and half the distance of the quartiles.

    >>> shown({"median": 1234.5, "low": 1200.0, "high": 1300.0, "values": []})
    '1,234 ± 50'
    """
    return f"{factor * figure['median']:{form}} ± {factor * (figure['high'] - figure['low']) / 2:{form}}"


def draw(axes: Axes, title: str, figures: Mapping[str, Spread]) -> None:
    """Draw medians as bars, with quartiles, the first one on top."""
    low, median, high = np.array([(each["low"], each["median"], each["high"]) for each in figures.values()]).T
    drawn = axes.barh(range(len(median)), median, xerr=[median - low, high - median], tick_label=[*figures])
    axes.bar_label(drawn, [f" {value:,.0f}" if value >= 100 else f" {value:.3g}" for value in median])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Report:
    """What a part of the benchmark measured.

    Args:
        figures: plain JSON values, for ``benchmark.json``.
        table: shows them.
        charts: figures by title and name, for ``benchmark.png``.
        notes: sentences below the table.
    """

    figures: dict[str, Any]
    table: Table
    charts: Mapping[str, Mapping[str, Spread]]
    notes: Sequence[str] = ()
