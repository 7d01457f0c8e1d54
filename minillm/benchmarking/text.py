"""How many megabytes of text go through each stage in a second: store, cleaning, filters, tokenizers, a dump."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Contestant, Session
from minillm.benchmarking.display import bars, curve, shown, table
from minillm.benchmarking.machine import cores
from minillm.benchmarking.schema import Spread, Text
from minillm.benchmarking.stages import PARALLEL
from minillm.benchmarking.statistics import spread
from minillm.benchmarking.worker import Unavailable
from minillm.errors import SettingError
from minillm.tokenization import BPETokenizer


@dataclass(frozen=True)
class TextSpeed:
    """Sends the sample corpus, as often as need be, through each stage.

    Args:
        megabytes: sizes of the corpus; the largest has as many rounds as the benchmark, the others are for the curve.
        vocab_size: of the tokenizers.
        dump: a dump of a wiki (pages-articles XML, .bz2 or plain), to be made plain text of; None: no dump.
        dump_articles: its articles that are read; None: all.

    Raises:
        SettingError: a size of 0, a vocabulary too small, or a dump that is not there.
    """

    megabytes: Sequence[float] = (1.0, 2.0, 4.0)
    vocab_size: int = 5000
    dump: str | None = None
    dump_articles: int | None = 2000

    def __post_init__(self) -> None:
        if not min(self.megabytes, default=0) > 0:
            raise SettingError("megabytes", list(self.megabytes), "must be sizes over 0, such as [1, 2, 4]")
        if self.vocab_size < BPETokenizer.smallest:
            raise SettingError("vocab_size", self.vocab_size, f"must be at least {BPETokenizer.smallest}, such as 5000")
        if self.dump is not None and not Path(self.dump).expanduser().is_file():
            raise SettingError("dump", self.dump, "is no file; give a pages-articles dump, .bz2 or plain")
        if self.dump_articles is not None and self.dump_articles < 1:
            raise SettingError("dump_articles", self.dump_articles, "must be at least 1, or null for all articles")

    def measure(self, session: Session) -> Text:
        """Return MB/s of each stage, on one core and on all."""
        *smaller, largest = sorted(set(self.megabytes))

        def contestant(megabytes: float, one_core: bool, with_dump: bool) -> Contestant:
            arguments = {
                "megabytes": megabytes,
                "vocab_size": self.vocab_size,
                "dump": self.dump if with_dump else None,
                "dump_articles": self.dump_articles,
                "processes": 1 if one_core else cores(),
                "stages": None if one_core else PARALLEL,
            }
            return Contestant("minillm.benchmarking.stages:work_through", arguments, one_core)

        outcomes = session.compete({"one": contestant(largest, True, True), "all": contestant(largest, False, True)})
        for outcome in outcomes.values():
            if outcome.skipped:
                raise Unavailable(outcome.skipped)
        one, every = (_speeds(outcome.turns) for outcome in outcomes.values())
        points: dict[str, dict[str, float]] = {name: {} for name in one if name != "dump"}
        for megabytes in smaller:
            found = session.compete({f"{megabytes:g} MB": contestant(megabytes, True, False)}, rounds=1)
            [outcome] = found.values()
            for name, speed in _speeds(outcome.turns).items():
                points[name][f"{megabytes:g}"] = speed["median"]
        for name in points:
            points[name][f"{largest:g}"] = one[name]["median"]
        return {"megabytes": largest, "one_core": one, "all_cores": every, "curve": points}

    def show(self, figures: Text, console: Console) -> None:
        """Show the stages."""
        title = f"Text: MB/s, {figures['megabytes']:g} MB of UTF-8"
        made = table(title, "stage", "a core", "all cores")
        for name, speed in figures["one_core"].items():
            every = figures["all_cores"].get(name)
            made.add_row(name, shown(speed, ",.2f"), shown(every, ",.2f") if every else "")
        console.print(made)
        console.print()

    def panels(self, figures: Text) -> int:
        """Return 2, or 1 where there is one size alone."""
        return 2 if len(next(iter(figures["curve"].values()))) > 1 else 1

    def draw(self, figures: Text, axes: Iterator[Axes]) -> None:
        """Draw the stages, and how they change with the size of the corpus."""
        bars(next(axes), "text, MB/s a core", figures["one_core"], "{:,.1f}")
        if self.panels(figures) == 1:
            return
        place = next(axes)
        for name in ("cleaning", "duplicates", "fitting, bpe", "encoding, bpe", "whole corpus"):
            points = figures["curve"][name]
            curve(
                place, "text by size of the corpus in MB", [float(size) for size in points], list(points.values()), name
            )
        for line, color in zip(place.lines, ("#3f87d6", "#dd8327", "#3c9d63", "#d94a4a", "#8a63c9"), strict=True):
            line.set_color(color)
        place.set_ylabel("MB/s a core", color="black")
        place.legend(frameon=False, fontsize=8)


def _speeds(turns: Sequence[dict[str, Any]]) -> dict[str, Spread]:
    return {name: spread([turn["speeds"][name] for turn in turns]) for name in (turns[0]["speeds"] if turns else ())}
