"""Progress bars with rate and remaining time, on a terminal."""

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
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


def track(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield items and show their count.

    Args:
        items: the items.
        description: of the work.
        total: maximum number of items; None: unknown.
    """
    with _bar(MofNCompleteColumn(), RateColumn()) as bar:
        yield from bar.track(items, total, description=description)


class Reading:
    """Progress of reading several files, in bytes and articles; see `reading`.

    Args:
        bar: shows it.
        description: of the work.
        total: bytes of all files.
    """

    def __init__(self, bar: Progress, description: str, total: int) -> None:
        self._bar, self._task = bar, bar.add_task(description, total=total, articles=0)
        self._positions: dict[int, int] = {}
        self._articles = 0

    def at(self, file: int, position: int) -> None:
        """Record how much of a file was read.

        Args:
            file: its number.
            position: bytes read so far.
        """
        self._positions[file] = position
        self._bar.update(self._task, completed=sum(self._positions.values()), articles=self._articles)

    def add_article(self) -> None:
        """Count one more article."""
        self._articles += 1
        if self._articles % 100 == 0:
            self._bar.update(self._task, articles=self._articles)


class ArticlesColumn(ProgressColumn):
    """Articles per second since the start."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        rate = task.fields["articles"] / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} articles/s", style="progress.data.speed")


@contextlib.contextmanager
def reading(description: str, total: int, shown: bool = True) -> Iterator[Reading]:
    """Show bytes read, total bytes, articles per second and time left while the block runs.

    Args:
        description: of the work.
        total: bytes of all files.
        shown: whether to show anything.
    """
    with _bar(DownloadColumn(), ArticlesColumn(), shown=shown) as bar:
        yield Reading(bar, description, total)


def _bar(*columns: ProgressColumn, shown: bool = True) -> Progress:
    console = Console(stderr=True)
    text, remaining = TextColumn("{task.description}"), TimeRemainingColumn()
    disabled = not (shown and console.is_terminal)
    return Progress(text, BarColumn(), *columns, remaining, console=console, transient=True, disable=disabled)
