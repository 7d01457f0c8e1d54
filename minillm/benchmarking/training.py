"""How fast does training go, and in how much memory: the project beside its peers, on the same batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Contestant, Outcome, Session
from minillm.benchmarking.display import bars, shown, table
from minillm.benchmarking.ours import sizes_of
from minillm.benchmarking.schema import Memory, Skipped, Trained, Training
from minillm.benchmarking.statistics import overhead, ratio, spread
from minillm.benchmarking.worker import Unavailable
from minillm.errors import SettingError

TRAINER, LOOP = "minillm", "minillm-loop"
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
Name = Literal[
    "minillm",
    "minillm-loop",
    "transformers-float32",
    "transformers-bf16",
    "transformers-bf16-compiled",
    "litgpt-float32",
    "litgpt-bf16",
    "litgpt-bf16-compiled",
]


@dataclass(frozen=True)
class TrainingSpeed:
    """Trains everybody in turn for some steps.

    Args:
        contestants: who takes part. ``minillm`` trains through Lightning's Trainer with all callbacks and loggers,
            ``minillm-loop`` the same module in a bare loop; peers are named by library and arithmetic.
        steps: steps a turn.
        warmup: steps before the first turn.
        vocabularies: for which memory is measured, besides.
        overrides: settings that differ from the composed config's, by dotted name.
        vocab_size: of the networks; None: the tokenizer's.
        gpu_only: do without it where there is no GPU.

    Raises:
        SettingError: no contestant, or no step.
    """

    contestants: Sequence[Name] = ("minillm", "minillm-loop")
    steps: int = 10
    warmup: int = 5
    vocabularies: Sequence[int] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int | None = None
    gpu_only: bool = False

    def __post_init__(self) -> None:
        if not self.contestants:
            raise SettingError("contestants", list(self.contestants), f"nobody takes part; [{TRAINER}] would do")
        for name in "steps", "warmup":
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1, such as 10")

    def measure(self, session: Session) -> Training:
        """Return speed and memory of each."""
        if self.gpu_only and session.device == "cpu":
            raise Unavailable("it needs a GPU")
        vocab_size = self.vocab_size or len(session.data.tokenizer)
        settings = session.settings(self.overrides)
        outcomes = session.compete(
            {name: self._contestant(session, name, vocab_size, self.steps) for name in self.contestants}
        )
        contestants = {name: self._trained(session, outcome) for name, outcome in outcomes.items()}
        measured = {name: figures for name, figures in contestants.items() if "skipped" not in figures}
        ours = measured.get(TRAINER)
        peers = {name: figures for name, figures in measured.items() if name not in (TRAINER, LOOP)} if ours else {}
        sizes = asdict(sizes_of(settings, vocab_size))
        return {
            "sizes": sizes,
            "batch_size": settings["data"]["batch_size"],
            "steps": self.steps,
            "contestants": contestants,
            "overhead": overhead(ours["step_ms"], measured[LOOP]["step_ms"]) if ours and LOOP in measured else None,
            "speedup": {
                name: ratio(ours["tokens_per_second"], peer["tokens_per_second"])
                for name, peer in peers.items()
                if ours
            },
            "memory_ratio": {
                name: {kind: ours["memory"][kind] / peer["memory"][kind] for kind in ("training", "peak")}
                for name, peer in peers.items()
                if ours
            },
            "vocabularies": self._vocabularies(session, list(measured)),
        }

    def _contestant(self, session: Session, name: str, vocab_size: int, steps: int) -> Contestant:
        settings = session.settings(self.overrides)
        shared = {"steps": steps, "warmup": self.warmup, "rows": session.rows(settings, vocab_size)}
        if name in (TRAINER, LOOP):
            target = "train" if name == TRAINER else "loop"
            own = {"settings": settings, "tokenizer": session.tokenizer, "vocab_size": vocab_size}
            return Contestant(f"minillm.benchmarking.ours:{target}", {**own, **shared})
        library, arithmetic, *compiled = name.split("-")
        arguments = {
            "library": library,
            "precision": PRECISIONS[arithmetic],
            "compiled": bool(compiled),
            "sizes": asdict(sizes_of(settings, vocab_size)),
            "batch_size": settings["data"]["batch_size"],
            "device": session.device,
            "optimizer": {"lr": 3e-4, "weight_decay": 0.01},
        }
        return Contestant("minillm.benchmarking.peers:train", {**arguments, **shared})

    def _trained(self, session: Session, outcome: Outcome) -> Trained | Skipped:
        if outcome.skipped:
            return {"skipped": outcome.skipped}
        facts = outcome.facts
        speeds = [turn["tokens"] / turn["seconds"] for turn in outcome.turns]
        peak = session.peak(facts["precision"])
        return {
            "precision": facts["precision"],
            "dropout": facts["dropout"],
            "parameters": facts["parameters"],
            "flops_per_token": facts["flops_per_token"],
            "step_ms": spread([1000 * turn["seconds"] / turn["steps"] for turn in outcome.turns]),
            "tokens_per_second": spread(speeds),
            "mfu": spread([speed * facts["flops_per_token"] / peak for speed in speeds]),
            "memory": outcome.turns[-1]["memory"],
        }

    def _vocabularies(self, session: Session, names: Sequence[str]) -> dict[str, dict[str, Memory | Skipped]]:
        """Return the memory that a step takes with other vocabularies; of the bare loop it is the Trainer's."""
        found: dict[str, dict[str, Memory | Skipped]] = {}
        for name in names if self.vocabularies else ():
            if name == LOOP and TRAINER in names:
                continue
            found[name] = {}
            for vocab_size in self.vocabularies:
                contestant = self._contestant(session, name, vocab_size, steps=1)
                outcome = session.compete({f"{name}, vocabulary {vocab_size:,}": contestant}, rounds=1)
                [reached] = outcome.values()
                found[name][str(vocab_size)] = (
                    {"skipped": reached.skipped} if reached.skipped else reached.turns[-1]["memory"]
                )
        return found

    def show(self, figures: Training, console: Console) -> None:
        """Show the contestants, and how the project stands beside each."""
        size = figures["sizes"]
        title = (
            f"Training: {size['num_layers']} layers, {size['embedding_dim']} wide, vocabulary {size['vocab_size']:,}, "
            f"batch {figures['batch_size']} x {size['max_length']}"
        )
        made = table(title, "", "tokens/s", "ms a step", "of peak", "MiB", "in all")
        measured = {name: found for name, found in figures["contestants"].items() if "skipped" not in found}
        for name, found in measured.items():
            memory = found["memory"]
            made.add_row(
                name,
                f"{found['tokens_per_second']['median']:,.0f}",
                shown(found["step_ms"], ",.1f"),
                f"{found['mfu']['median']:.1%}",
                f"{memory['training']:,.0f}",
                f"{memory['peak']:,.0f}",
            )
        console.print(made)
        show_skipped(figures["contestants"], console)
        forms = ", ".join(f"{name} {found['precision']}" for name, found in measured.items() if name in (TRAINER, LOOP))
        told = "of peak: of the matrix products' speed; in all: with the memory that imports take"
        console.print(f"{forms}; {told}", highlight=False)
        if without := [name for name, found in measured.items() if found["dropout"] < size["dropout"]]:
            console.print(f"without dropout, which it does not have: {', '.join(without)}", highlight=False)
        if figures["overhead"]:
            share = shown(figures["overhead"], ".1f", 100)
            console.print(f"Trainer, callbacks and logging take {share} % of the step", highlight=False)
        for name, speedup in figures["speedup"].items():
            memory_ratio = figures["memory_ratio"][name]
            console.print(
                f"beside {name}: {shown(speedup, '.2f')} x the tokens/s, {memory_ratio['training']:.2f} x the memory "
                f"({memory_ratio['peak']:.2f} x with imports)",
                highlight=False,
            )
        for name, sizes in figures["vocabularies"].items():
            taken = ", ".join(
                f"{cast(Skipped, memory)['skipped']} at {int(vocab_size):,}"
                if "skipped" in memory
                else f"{memory['training']:,.0f} MiB at {int(vocab_size):,}"
                for vocab_size, memory in sizes.items()
            )
            console.print(f"memory by vocabulary, {name}: {taken}", highlight=False)
        console.print()

    def panels(self, figures: Training) -> int:
        """Return 2: speed and memory."""
        return 2

    def draw(self, figures: Training, axes: Iterator[Axes]) -> None:
        """Draw speed and memory."""
        measured = {name: found for name, found in figures["contestants"].items() if "skipped" not in found}
        bars(next(axes), "training, tokens/s", {name: found["tokens_per_second"] for name, found in measured.items()})
        memory = {name: spread([found["memory"]["training"]]) for name, found in measured.items()}
        bars(next(axes), "training, peak memory without imports, MiB", memory)


def show_skipped(contestants: Mapping[str, Any], console: Console) -> None:
    """Show who was left out, and why."""
    for name, found in contestants.items():
        if "skipped" in found:
            console.print(f"{name} is left out: {found['skipped']}", highlight=False, markup=False)
