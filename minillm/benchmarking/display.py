"""How figures look: in tables, and in drawings."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from rich.table import Table

from minillm.benchmarking.schema import Spread

BAR, LINE, MEMORY = "#3f87d6", "#3c9d63", "#dd8327"


def table(title: str, first: str, *columns: str) -> Table:
    """Return an empty table; all columns but the first are figures."""
    made = Table(first, title=title, title_justify="left")
    for column in columns:
        made.add_column(column, justify="right")
    return made


def shown(figure: Spread, form: str = ",.0f", factor: float = 1.0) -> str:
    """Return a median, and half the distance of the quartiles around it.

    >>> shown({"median": 1234.5, "low": 1200.0, "high": 1300.0, "values": []})
    '1,234 ± 50'
    """
    return f"{factor * figure['median']:{form}} ± {factor * (figure['high'] - figure['low']) / 2:{form}}"


def bars(axes: Axes, title: str, figures: Mapping[str, Spread], form: str = "{:,.0f}") -> None:
    """Draw medians as bars, with their quartiles, the first one on top."""
    medians = [figure["median"] for figure in figures.values()]
    reach = [
        [figure["median"] - figure["low"] for figure in figures.values()],
        [figure["high"] - figure["median"] for figure in figures.values()],
    ]
    drawn = axes.barh(range(len(figures)), medians, xerr=reach, tick_label=list(figures), color=BAR)
    axes.bar_label(drawn, [" " + form.format(median) for median in medians], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def curve(
    axes: Axes, title: str, values: Sequence[float], figures: Sequence[float], label: str, memory: Sequence[float] = ()
) -> None:
    """Draw a figure over a size, both on a logarithmic scale; memory beside it, from 0."""
    axes.plot(values, figures, color=LINE, marker="o", label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_ylabel(label, color=LINE)
    axes.set_title(title, fontsize=10)
    if memory:
        other = axes.twinx()
        other.plot(values, memory, color=MEMORY, marker=".", linestyle="--")
        other.set_ylim(bottom=0)
        other.set_ylabel("peak memory, MiB", color=MEMORY)
