"""Progress bars, with rate and remaining time, where there is a terminal to show them."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

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
    TransferSpeedColumn,
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


@contextlib.contextmanager
def open_tracked(path: Path, description: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, and show how much of it was read.

    Args:
        path: the file.
        description: what is being done.

    Raises:
        OSError: it cannot be opened.
    """
    with _bar(DownloadColumn(), TransferSpeedColumn()) as bar, bar.open(path, "rb", description=description) as file:
        yield file


def _bar(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    text, remaining = TextColumn("{task.description}"), TimeRemainingColumn()
    return Progress(
        text, BarColumn(), *columns, remaining, console=console, transient=True, disable=not console.is_terminal
    )
