"""Progress bars, with rate and remaining time, where there is a terminal to show them."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")


class RateColumn(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


def track(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield items and show how many there were.

    Args:
        items: what to go through.
        description: what is being done.
        total: how many items there are at most; None where nobody knows.
    """
    with _bar(MofNCompleteColumn(), RateColumn()) as bar:
        yield from bar.track(items, total, description=description)


class Reading:
    """How far the reading of some files is, as bytes of all of them and as articles; see `reading`.

    Args:
        bar: where it is shown.
        description: what is being done.
        total: bytes of all files.
    """

    def __init__(self, bar: Progress, description: str, total: int) -> None:
        self._bar, self._task = bar, bar.add_task(description, total=total, articles=0)
        self._positions: dict[int, int] = {}
        self._articles = 0

    def at(self, file: int, position: int) -> None:
        """Take note of how many bytes of a file were read.

        Args:
            file: its number.
            position: bytes.
        """
        self._positions[file] = position
        self._bar.update(self._task, completed=sum(self._positions.values()), articles=self._articles)

    def add_article(self) -> None:
        """Take note of one more article."""
        self._articles += 1
        if self._articles % 100 == 0:
            self._bar.update(self._task, articles=self._articles)


class ArticlesColumn(ProgressColumn):
    """Articles a second since the beginning."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        rate = task.fields["articles"] / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} articles/s", style="progress.data.speed")


@contextlib.contextmanager
def reading(description: str, total: int, shown: bool = True) -> Iterator[Reading]:
    """Show the bytes read and of how many, articles per second and the time left, while the block runs.

    Args:
        description: what is being done.
        total: bytes of all that is to be read.
        shown: False shows nothing.
    """
    with _bar(DownloadColumn(), ArticlesColumn(), shown=shown) as bar:
        yield Reading(bar, description, total)


def _bar(*columns: ProgressColumn, shown: bool = True) -> Progress:
    console = Console(stderr=True)
    text, remaining = TextColumn("{task.description}"), TimeRemainingColumn()
    disabled = not (shown and console.is_terminal)
    return Progress(text, BarColumn(), *columns, remaining, console=console, transient=True, disable=disabled)
