"""Does a training step wait for its batch, and what does packing gain: the data module at work."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Contestant, Session
from minillm.benchmarking.display import bars, shown, table
from minillm.benchmarking.schema import Data, Loaded, Skipped
from minillm.benchmarking.statistics import ratio, spread
from minillm.benchmarking.training import show_skipped
from minillm.errors import SettingError


@dataclass(frozen=True)
class DataSpeed:
    """Trains through Lightning's Trainer on what the data module gives.

    Args:
        batching: ways to fill a batch.
        steps: steps a turn.
        warmup: steps before the first turn.

    Raises:
        SettingError: no step, or nothing to measure.
    """

    batching: Sequence[Literal["dynamic", "packed"]] = ("dynamic", "packed")
    steps: int = 20
    warmup: int = 5

    def __post_init__(self) -> None:
        if not self.batching:
            raise SettingError("batching", list(self.batching), "must name dynamic, packed or both")
        for name in "steps", "warmup":
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1, such as 20")

    def measure(self, session: Session) -> Data:
        """Return speed and waiting of each way."""
        outcomes = session.compete(
            {
                way: Contestant(
                    "minillm.benchmarking.ours:train",
                    {
                        "settings": session.settings({"data.batching": way}),
                        "tokenizer": session.tokenizer,
                        "vocab_size": len(session.data.tokenizer),
                        "steps": self.steps,
                        "warmup": self.warmup,
                    },
                )
                for way in self.batching
            }
        )
        found: dict[str, Loaded | Skipped] = {}
        for way, outcome in outcomes.items():
            turns = outcome.turns
            found[way] = (
                {"skipped": outcome.skipped}
                if outcome.skipped
                else {
                    "tokens_per_second": spread([turn["tokens"] / turn["seconds"] for turn in turns]),
                    "wait_share": spread([turn["waited"] / turn["seconds"] for turn in turns]),
                    "wait_ms": spread([1000 * turn["waited"] / turn["steps"] for turn in turns]),
                }
            )
        speeds = {way: loaded["tokens_per_second"] for way, loaded in found.items() if "skipped" not in loaded}
        both = {"dynamic", "packed"} <= set(speeds)
        return {"batching": found, "packed_speedup": ratio(speeds["packed"], speeds["dynamic"]) if both else None}

    def show(self, figures: Data, console: Console) -> None:
        """Show each way."""
        title = "Data: training on the data module's batches"
        made = table(title, "batching", "tokens/s", "ms that a step waits", "% of the step")
        for way, found in figures["batching"].items():
            if "skipped" not in found:
                loaded = found
                made.add_row(
                    way,
                    shown(loaded["tokens_per_second"]),
                    shown(loaded["wait_ms"], ".2f"),
                    shown(loaded["wait_share"], ".2f", 100),
                )
        console.print(made)
        show_skipped(figures["batching"], console)
        if figures["packed_speedup"]:
            console.print(
                f"Packed batches have x {shown(figures['packed_speedup'], '.2f')} the tokens/s.", highlight=False
            )
        console.print()

    def panels(self, figures: Data) -> int:
        """Return 1."""
        return 1

    def draw(self, figures: Data, axes: Iterator[Axes]) -> None:
        """Draw the speeds."""
        speeds = {
            way: found["tokens_per_second"] for way, found in figures["batching"].items() if "skipped" not in found
        }
        bars(next(axes), "training from the data module, tokens/s", speeds)
