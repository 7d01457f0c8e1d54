"""The whole benchmark: its parts one after another, and what they share."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from minillm.benchmarking import machine, ours
from minillm.benchmarking.loops import Job, full_batches
from minillm.benchmarking.report import Report, Spread, draw
from minillm.benchmarking.worker import Figures, Turns, Unavailable, Worker
from minillm.checkpoint import build_network
from minillm.configuration import plain
from minillm.data import TextDataModule
from minillm.data.datamodule import TOKENIZER
from minillm.errors import OutsideError, SettingError
from minillm.files import written_whole
from minillm.models.sizes import check_sizes
from minillm.progress import track

log = logging.getLogger(__name__)


class Session:
    """A run of the benchmark, as its parts see it.

    Args:
        config: the composed config.
        rounds: number of turns of each contestant.
        scratch: folder for temporary files.
    """

    def __init__(self, config: DictConfig, rounds: int, scratch: Path) -> None:
        self.config, self.rounds, self._scratch = config, rounds, scratch
        on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        self.device = "cuda:0" if on_gpu else "cpu"
        self.machine = machine.describe(self.device)
        self._paths = 0

    def job(self, vocab_size: int | None = None, steps: int = 1, warmup: int = 1, **trainer: Any) -> Job:
        """Return what a contestant has to do.

        Args:
            vocab_size: of the network; None: the tokenizer's.
            steps: of training per turn.
            warmup: steps before the first turn.
            trainer: settings of the trainer that differ.
        """
        config, entries = self.config.copy(), len(self.data.tokenizer)
        if vocab_size is not None and vocab_size < entries:
            raise SettingError(
                "benchmark.training.vocab_size", vocab_size, f"must be at least the tokenizer's {entries}"
            )
        endless = {"max_epochs": -1, "max_steps": 1_000_000, "max_time": None, "limit_val_batches": 0}
        OmegaConf.update(config, "trainer", {**endless, **trainer}, force_add=True)
        OmegaConf.update(config, "paths.output_dir", str(self.new_path("run")))
        tokenizer = (self.data.folder / TOKENIZER).read_text(encoding="utf-8")
        batches = full_batches(self.data.splits["train"], 8, config.data.batch_size, config.data.max_length)
        return Job(plain(config), tokenizer, vocab_size or entries, self.device, batches, steps, warmup)

    @cached_property
    def data(self) -> TextDataModule:
        """The data of the composed config, prepared."""
        return ours.prepared_data(self.config)

    def compete(
        self,
        contestants: Mapping[str, Callable[[Turns], None]],
        abouts: Sequence[dict[str, Any]] = ({},),
        rounds: int | None = None,
        together: bool = False,
    ) -> tuple[dict[str, list[Figures]], dict[str, str]]:
        """Let contestants take turns; return the answers of each, and why others could not take part, by name.

        Args:
            contestants: by name, see `minillm.benchmarking.worker.Worker`; the first answer of each has its facts.
            abouts: what each turn of a round is about.
            rounds: their number; None: the benchmark's.
            together: whether they all take a turn at the same time.

        Raises:
            MiniLLMError: a contestant's, such as for a setting.
        """
        answers: dict[str, list[Figures]] = {name: [] for name in contestants}
        skipped: dict[str, str] = {}
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(len(contestants)))  # each waits for one worker
            workers = {name: Worker(work, self.new_path("worker")) for name, work in contestants.items()}
            for worker in workers.values():
                stack.callback(worker.close)

            def turn(name: str, about: dict[str, Any]) -> None:
                try:
                    answers[name].append(workers[name].turn(**about))
                except Unavailable as reason:
                    log.warning("%s is left out: %s", name, reason)
                    skipped[name] = str(reason)
                    workers[name].close()

            turns = [{}, *[*abouts] * (rounds or self.rounds)]
            for about in track(turns, f"{', '.join(contestants)}: turns", len(turns)):
                left = [name for name in contestants if name not in skipped]
                list((threads.map if together else map)(turn, left, repeat(about)))
        return {name: each for name, each in answers.items() if name not in skipped}, skipped

    def peak(self, precision: str) -> float:
        """Return the machine's speed at matrix products of a Trainer's precision, in operations per second."""
        matmul = self.machine["matmul"]
        found = matmul["float32"] if precision != "bf16-mixed" else matmul.get("bfloat16", matmul["float32"])
        return float(found["flops"])

    def new_path(self, kind: str) -> Path:
        """Return a path for something temporary."""
        self._paths += 1
        return self._scratch / f"{kind}_{self._paths}"


class Part(Protocol):
    """A question that the benchmark answers; each has a file, and a node in conf/benchmark/."""

    def measure(self, session: Session) -> Report:
        """Return the figures.

        Raises:
            Unavailable: the machine cannot measure it.
        """


def left_out(skipped: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what stands in the place of the figures of contestants that could not take part."""
    return {name: {"skipped": reason} for name, reason in skipped.items()}


def choose(parts: Mapping[str, Part], names: Sequence[str]) -> dict[str, Part]:
    """Return the parts with these names.

    Raises:
        SettingError: there is none, or no such part.
    """
    for name in names:
        if name not in parts:
            raise SettingError("parts", list(names), f"there is no part {name}; choose of {', '.join(parts)}")
    if not names:
        raise SettingError("parts", list(names), f"measures nothing; choose of {', '.join(parts)}")
    return {name: parts[name] for name in names}


def run(config: DictConfig, parts: Mapping[str, Part], rounds: int, folder: Path, console: Console) -> dict[str, Any]:
    """Measure the parts one after another; show and save the figures of each, and return what ``benchmark.json`` holds.

    MB are 10^6 bytes of UTF-8 text, MiB 2^20 bytes of memory.

    Args:
        config: the composed config.
        parts: by name.
        rounds: number of turns of each contestant.
        folder: for ``benchmark.json`` and ``benchmark.png``.
        console: for the tables.

    Raises:
        SettingError: no rounds, a network that cannot be built, or a setting that a part refuses.
    """
    check_sizes(rounds=rounds)
    with torch.device("meta"):  # finds a network that cannot be built
        build_network(plain(config)["model"], vocab_size=8)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark_") as scratch:
        session = Session(config, rounds, Path(scratch))
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        result: dict[str, Any] = {"schema": 2, "date": date, "seconds": 0.0, "rounds": rounds}
        result |= {"machine": session.machine, "config": plain(config), "parts": {}}
        _show_machine(result, console)
        charts: dict[str, Mapping[str, Spread]] = {}
        for name, part in parts.items():
            try:
                report = part.measure(session)
            except Unavailable as reason:
                result["parts"][name] = {"skipped": str(reason)}
                console.print(f"[bold]{name}[/bold] is left out: {reason}\n", highlight=False)
            else:
                result["parts"][name] = report.figures
                charts |= {title: bars for title, bars in report.charts.items() if bars}
                skipped = {who: found.get("skipped") for who, found in report.figures.get("contestants", {}).items()}
                console.print(report.table)
                for note in (*(f"{who} is left out: {why}" for who, why in skipped.items() if why), *report.notes):
                    console.print(note, highlight=False, markup=False)
                console.print()
            result["seconds"] = time.perf_counter() - start
            _write(result, charts, folder)
    return result


def _show_machine(result: Mapping[str, Any], console: Console) -> None:
    facts = result["machine"]
    speeds = ", ".join(f"{peak['flops'] / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in facts["matmul"].items())
    size = facts["matmul"]["float32"]["size"]
    for what, value in {
        "machine": f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; on {facts['device']}",
        "matrices": f"{size} x {size}: {speeds}",
        "libraries": ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()),
        "figures": f"median of {result['rounds']} rounds ± half the distance of the quartiles",
    }.items():
        console.print(f"[bold]{what:<12}[/bold]{value}", highlight=False, soft_wrap=True)
    console.print()


def _write(result: Mapping[str, Any], charts: Mapping[str, Mapping[str, Spread]], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "benchmark.json") as temporary:
            text = json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        columns, lines = min(3, len(charts)), -(-len(charts) // 3)
        figure = Figure(figsize=(5.2 * columns, 3.6 * lines), layout="constrained")
        for place, (title, figures) in enumerate(charts.items(), 1):
            draw(figure.add_subplot(lines, columns, place), title, figures)
        if charts:
            with written_whole(folder / "benchmark.png") as temporary:
                figure.savefig(temporary, format="png", dpi=120)
    except OSError as error:
        raise OutsideError(f"{folder}: cannot be written ({error.strerror or error})") from error
