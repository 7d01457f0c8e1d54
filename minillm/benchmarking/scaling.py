"""How do speed and memory of training change with each size."""

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Contestant, Session
from minillm.benchmarking.display import curve, shown, table
from minillm.benchmarking.schema import Point, Scaling
from minillm.benchmarking.statistics import spread
from minillm.benchmarking.worker import Unavailable, Worker
from minillm.errors import SettingError
from minillm.progress import track

log = logging.getLogger(__name__)

SETTINGS = {
    "width": "model.embedding_dim",
    "depth": "model.num_layers",
    "batch": "data.batch_size",
    "context": "data.max_length",
}


@dataclass(frozen=True)
class ScalingCurves:
    """Trains the project's network for a few steps at each size, in the bare loop, each in a process of its own.

    Args:
        width: embedding dimensions.
        depth: layers.
        batch: rows a batch.
        context: tokens a row; batches have fewer rows as these grow, so that a step has as many tokens.
        vocabulary: entries; the text stays that of the tokenizer's own.
        steps: steps that are timed together.
        repeats: how often.
        warmup: steps before.

    Raises:
        SettingError: a size, or a number of steps, under 1.
    """

    width: Sequence[int] = ()
    depth: Sequence[int] = ()
    batch: Sequence[int] = ()
    context: Sequence[int] = ()
    vocabulary: Sequence[int] = ()
    steps: int = 2
    repeats: int = 3
    warmup: int = 2

    def __post_init__(self) -> None:
        for name in (*SETTINGS, "vocabulary"):
            values = getattr(self, name)
            if min(values, default=1) < 1:
                raise SettingError(name, list(values), "must be numbers from 1 on; [] leaves the curve out")
        if min(self.vocabulary, default=8) < 8:
            raise SettingError("vocabulary", list(self.vocabulary), "must be at least 8, such as 5000")
        for name in "steps", "repeats", "warmup":
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1, such as 3")

    def measure(self, session: Session) -> Scaling:
        """Return a curve for each size."""
        forks = session.device == "cpu" and "fork" in multiprocessing.get_all_start_methods()
        arguments = {"tokenizer": session.tokenizer, "forks": forks}
        points = [(name, value) for name in (*SETTINGS, "vocabulary") for value in getattr(self, name)]
        known: dict[str, dict[str, Any]] = {}
        curves: dict[str, list[Point]] = {name: [] for name, _ in points}
        with session.worker(Contestant("minillm.benchmarking.ours:scale", arguments)) as worker:
            for name, value in track(points, "scaling: sizes", len(points)):
                overrides, vocab_size = self._overrides(session, name, value)
                key = str((sorted(overrides.items()), vocab_size))
                if key not in known:  # the curves meet at the composed config's own sizes
                    known[key] = self._figures(session, worker, overrides, vocab_size)
                figures = known[key]
                if "failed" in figures:
                    log.warning("%s %d is left out: %s", name, value, figures["failed"])
                    continue
                speeds = [figures["tokens"] / seconds for seconds in figures["seconds"]]
                curves[name].append(
                    {
                        "value": float(value),
                        "tokens_per_second": spread(speeds),
                        "mfu": spread(speeds)["median"]
                        * figures["flops_per_token"]
                        / session.peak(figures["precision"]),
                        "memory": figures["memory"] if forks or session.device != "cpu" else None,
                    }
                )
        if not any(curves.values()):
            raise Unavailable("no size could be measured" if points else "no size was asked for")
        return {"curves": {name: found for name, found in curves.items() if found}}

    def _overrides(self, session: Session, name: str, value: int) -> tuple[dict[str, int], int]:
        """Return what all sizes are at a point, and the vocabulary's."""
        config = session.config
        own = {
            "model.embedding_dim": config.model.embedding_dim,
            "model.num_layers": config.model.num_layers,
            "data.batch_size": config.data.batch_size,
            "data.max_length": config.data.max_length,
        }
        vocab_size = len(session.data.tokenizer)
        if name == "vocabulary":
            return own, value
        if name == "context":
            own["data.batch_size"] = max(1, config.data.batch_size * config.data.max_length // value)
        return {**own, SETTINGS[name]: value}, vocab_size

    def _figures(
        self, session: Session, worker: Worker, overrides: Mapping[str, int], vocab_size: int
    ) -> dict[str, Any]:
        settings = session.settings(overrides)
        return worker.turn(
            settings=settings,
            vocab_size=vocab_size,
            rows=session.rows(settings, vocab_size, batches=4),
            steps=self.steps,
            rounds=self.repeats,
            warmup=self.warmup,
        )

    def show(self, figures: Scaling, console: Console) -> None:
        """Show a table for all curves."""
        title = "Scaling: training in the bare loop; one size changes"
        made = table(title, "", "", "tokens/s", "of peak", "MiB", "in all")
        for name, points in figures["curves"].items():
            for place, point in enumerate(points):
                memory = point["memory"]
                made.add_row(
                    "" if place else name,
                    f"{point['value']:,.0f}",
                    shown(point["tokens_per_second"]),
                    f"{point['mfu']:.1%}",
                    *((f"{memory['training']:,.0f}", f"{memory['peak']:,.0f}") if memory else ("", "")),
                )
            made.add_section()
        console.print(made)
        console.print()

    def panels(self, figures: Scaling) -> int:
        """Return one a curve."""
        return len(figures["curves"])

    def draw(self, figures: Scaling, axes: Iterator[Axes]) -> None:
        """Draw the curves."""
        for name, points in figures["curves"].items():
            curve(
                next(axes),
                f"training by {name}",
                [point["value"] for point in points],
                [point["tokens_per_second"]["median"] for point in points],
                "tokens/s",
                [point["memory"]["training"] for point in points if point["memory"]],
            )
