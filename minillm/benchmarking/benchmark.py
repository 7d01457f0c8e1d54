"""The whole benchmark: its parts in turn, and what is common to them."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from minillm.benchmarking import machine
from minillm.benchmarking.loops import write_rows
from minillm.benchmarking.schema import SCHEMA, Peak, Result
from minillm.benchmarking.worker import Unavailable, Worker
from minillm.checkpoint import build_network
from minillm.configuration import instantiate, plain
from minillm.data import TextDataModule
from minillm.data.datamodule import TOKENIZER
from minillm.errors import OutsideError, SettingError
from minillm.files import written_whole
from minillm.progress import track
from minillm.training.trainer import has_fast_bfloat16

log = logging.getLogger(__name__)

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16"}


@dataclass(frozen=True)
class Contestant:
    """Who takes part, and how.

    Args:
        target: what its process does, ``module:function``.
        arguments: plain JSON values.
        one_core: it may use one core alone.
    """

    target: str
    arguments: Mapping[str, Any]
    one_core: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a contestant reached.

    Args:
        facts: known when it was warm.
        turns: the figures of its turns, in order.
        skipped: why it has none.
    """

    facts: dict[str, Any]
    turns: list[dict[str, Any]]
    skipped: str | None = None


class Session:
    """One run of the benchmark, as its parts see it.

    Args:
        config: the composed config.
        rounds: turns of each contestant.
        scratch: folder for what is not kept.
    """

    def __init__(self, config: DictConfig, rounds: int, scratch: Path) -> None:
        self.config, self.rounds, self.scratch = config, rounds, scratch
        accelerator = config.trainer.accelerator
        on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        self.device = "cuda:0" if on_gpu else "cpu"
        self._names = 0

    def settings(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the composed config as plain values, for one process of its own.

        Args:
            overrides: settings that differ, by dotted name.
        """
        config = self.config.copy()
        # What a process writes is not kept, and nothing ends before its last turn.
        never: dict[str, Any] = {"max_epochs": -1, "max_steps": 1_000_000, "max_time": None, "limit_val_batches": 0}
        ours = {"paths.output_dir": str(self.new_path("run")), **{f"trainer.{key}": never[key] for key in never}}
        for name, value in {**ours, **(overrides or {})}.items():
            OmegaConf.update(config, name, value)
        return plain(config)

    @cached_property
    def data(self) -> TextDataModule:
        """The data of the composed config, prepared."""
        data: TextDataModule = instantiate(self.config, "data", tokenizer=instantiate(self.config, "tokenizer"))
        data.prepare_data()
        data.setup()
        return data

    @property
    def tokenizer(self) -> str:
        """Path of the tokenizer."""
        return str(self.data.folder / TOKENIZER)

    def rows(self, settings: Mapping[str, Any], vocab_size: int, batches: int = 8) -> str:
        """Write the rows that everybody trains on, and return their path.

        Args:
            settings: with the length and the number of rows in a batch.
            vocab_size: of the network.
            batches: how many different ones.
        """
        length, size = settings["data"]["max_length"], settings["data"]["batch_size"]
        path = self.scratch / f"rows_{length}_{size}_{min(vocab_size, len(self.data.tokenizer))}.npy"
        if not path.exists():
            write_rows(path, self.data.splits["train"], length, batches * size, vocab_size)
        return str(path)

    def compete(
        self, contestants: Mapping[str, Contestant], abouts: Sequence[dict[str, Any]] = ({},), rounds: int | None = None
    ) -> dict[str, Outcome]:
        """Let contestants take turns; return each one's figures, by name.

        Args:
            contestants: who takes part, by name.
            abouts: what each turn of a round is about, where a round has several.
            rounds: how often; None: as often as the benchmark was told.

        Raises:
            SettingError: a setting that one of them refuses.
        """
        outcomes: dict[str, Outcome] = {}
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name, contestant in contestants.items():
                outcomes[name] = Outcome({}, [])
                try:
                    workers[name] = stack.enter_context(self.worker(contestant))
                    outcomes[name] = Outcome(workers[name].facts, [])
                except Unavailable as reason:
                    log.warning("%s is left out: %s", name, reason)
                    outcomes[name] = Outcome({}, [], str(reason))
            rounds = self.rounds if rounds is None else rounds
            for _ in track(range(rounds), f"{', '.join(workers)}: rounds", rounds):
                for about in abouts:
                    for name, worker in list(workers.items()):
                        try:
                            outcomes[name].turns.append(worker.turn(**about))
                        except Unavailable as reason:
                            log.warning("%s is left out: %s", name, reason)
                            outcomes[name] = Outcome({}, [], str(reason))
                            worker.close()
                            del workers[name]
        return outcomes

    def worker(self, contestant: Contestant) -> Worker:
        """Return a contestant's process, to give it its turns one by one.

        Raises:
            Unavailable: the contestant cannot take part.
            SettingError: a setting that it refuses.
        """
        log_file = self.new_path("worker").with_suffix(".log")
        return Worker(contestant.target, contestant.arguments, log_file, contestant.one_core)

    @cached_property
    def peaks(self) -> dict[str, Peak]:
        """The machine's speed at matrix products, the best of all tries, by dtype.

        Without bfloat16 where the hardware lacks it: one product of 2,048 rows took a minute and a half on a CPU.
        """
        dtypes = ["float32"] + ["bfloat16"] * has_fast_bfloat16("cpu" if self.device == "cpu" else "gpu")
        size = 2048 if self.device == "cpu" else 8192
        arguments = {"device": self.device, "size": size, "dtypes": dtypes}
        tries = self.compete(
            {"matrix products": Contestant("minillm.benchmarking.matmul:multiply", arguments)}, rounds=8
        )["matrix products"]
        if tries.skipped:
            raise OutsideError(f"the machine's speed cannot be measured: {tries.skipped}")
        return {name: {"size": size, "flops": max(turn["flops"][name] for turn in tries.turns)} for name in dtypes}

    def peak(self, precision: str) -> float:
        """Return the machine's speed for a Trainer's precision, in operations a second."""
        return self.peaks.get(PRECISIONS.get(precision, "float32"), self.peaks["float32"])["flops"]

    def new_path(self, kind: str) -> Path:
        """Return where something that is not kept can be written."""
        self._names += 1
        return self.scratch / f"{kind}_{self._names}"


class Part(Protocol):
    """One question of the benchmark; each has a file, and a node in conf/benchmark/."""

    def measure(self, session: Session) -> Any:
        """Return the figures, as plain JSON values.

        Raises:
            Unavailable: the machine has not what it needs.
        """

    def show(self, figures: Any, console: Console) -> None:
        """Show them as tables."""

    def draw(self, figures: Any, axes: Iterator[Axes]) -> None:
        """Draw them, on as many of the axes as `panels` says."""

    def panels(self, figures: Any) -> int:
        """Return how many axes they take."""


def choose(parts: Mapping[str, Part], names: Sequence[str]) -> dict[str, Part]:
    """Return the requested parts.

    Raises:
        SettingError: there is none, or not such a one.
    """
    for name in names:
        if name not in parts:
            raise SettingError("parts", list(names), f"there is no part {name}; choose of {', '.join(parts)}")
    if not names:
        raise SettingError("parts", list(names), f"measures nothing; choose of {', '.join(parts)}")
    return {name: parts[name] for name in names}


def run(config: DictConfig, parts: Mapping[str, Part], rounds: int, folder: Path, console: Console) -> Result:
    """Measure the parts one after another; show each when it is done, and keep what is there.

    Args:
        config: the composed config.
        parts: by name.
        rounds: turns of each contestant.
        folder: where ``benchmark.json`` and ``benchmark.png`` go.
        console: where the tables go.

    Raises:
        SettingError: rounds under 1, a network that cannot be built, or a setting that a part refuses.
    """
    if rounds < 1:
        raise SettingError("rounds", rounds, "must be at least 1, such as 5")
    with torch.device("meta"):  # a network that cannot be built is found now, at no cost
        build_network(plain(config)["model"], vocab_size=8)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark_") as scratch:
        session = Session(config, rounds, Path(scratch))
        result: Result = {
            "schema": SCHEMA,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": 0.0,
            "rounds": rounds,
            "machine": machine.describe(session.device, session.peaks),
            "config": plain(config),
            "parts": {},
        }
        show_machine(result, console)
        for name, part in parts.items():
            try:
                figures = part.measure(session)
            except Unavailable as reason:
                result["parts"][name] = {"skipped": str(reason)}
                console.print(f"[bold]{name}[/bold] is left out: {reason}\n", highlight=False)
                continue
            result["parts"][name] = figures
            result["seconds"] = time.perf_counter() - start
            part.show(figures, console)
            _write(result, parts, folder)
        _write(result, parts, folder)
    return result


def show_machine(result: Result, console: Console) -> None:
    """Show what the figures belong to."""
    facts = result["machine"]
    speeds = ", ".join(f"{peak['flops'] / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in facts["matmul"].items())
    size = next(iter(facts["matmul"].values()))["size"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    for what, value in {
        "machine": f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; on {facts['device']}",
        "matrices": f"{size} x {size}: {speeds}",
        "libraries": versions,
        "figures": f"median of {result['rounds']} rounds ± half the distance of the quartiles",
    }.items():
        console.print(f"[bold]{what:<12}[/bold]{value}", highlight=False, soft_wrap=True)
    console.print()


def _write(result: Result, parts: Mapping[str, Part], folder: Path) -> None:
    measured = {name: figures for name, figures in result["parts"].items() if "skipped" not in figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "benchmark.json") as temporary:
            text = json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        count = sum(parts[name].panels(figures) for name, figures in measured.items())
        if not count:
            return
        columns = min(3, count)
        lines = -(-count // columns)
        figure = Figure(figsize=(5.2 * columns, 3.6 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        free = iter(axes)
        for name, figures in measured.items():
            parts[name].draw(figures, free)
        for unused in free:
            unused.set_visible(False)
        with written_whole(folder / "benchmark.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    except OSError as error:
        raise OutsideError(f"{folder}: cannot be written ({error.strerror or error})") from error
