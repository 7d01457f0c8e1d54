"""What a second process brings: training with DDP, and preparing a dump, each process on a core of its own."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from minillm.arithmetic import seconds
from minillm.benchmarking import ours
from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.costs import CorpusCosts
from minillm.benchmarking.display import bars, shown, table
from minillm.benchmarking.dumps import write_dump
from minillm.benchmarking.loops import Endless
from minillm.benchmarking.schema import Processes, TrainingProcesses
from minillm.benchmarking.statistics import spread
from minillm.benchmarking.worker import Unavailable
from minillm.errors import SettingError


@dataclass(frozen=True)
class ProcessScaling:
    """Trains with DDP in several processes, and prepares a dump with several, on the processor.

    Each process is bound to one core and has one thread. Of each round the steps are taken twice: with the gradients
    exchanged, and without (``no_sync``), so that what the exchange costs is measured at the same load of the machine.

    Args:
        processes: how many at a time.
        steps: training steps a round.
        warmup: steps before.
        pages: of the dump, see `minillm.benchmarking.costs.CorpusCosts`; 0: nothing is prepared.
        parts: files that the dump has.
        common: overrides of `scripts/prepare.py`.

    Raises:
        SettingError: a number of processes or steps under 1, or fewer than 100 pages.
    """

    processes: Sequence[int] = (1, 2)
    steps: int = 10
    warmup: int = 3
    pages: int = 5000
    parts: int = 4
    common: Sequence[str] = ("tokenizer=bpe",)

    def __post_init__(self) -> None:
        if min(self.processes, default=0) < 1:
            raise SettingError("processes", list(self.processes), "must be numbers from 1 on, such as [1, 2]")
        for name in "steps", "warmup":
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1, such as 3")
        if self.pages and self.pages < 100:
            raise SettingError("pages", self.pages, "must be at least 100, such as 5000, or 0 to prepare nothing")

    def measure(self, session: Session) -> Processes:
        """Return the figures.

        Raises:
            Unavailable: there are too few cores, or the system binds no process to one.
            OutsideError: `scripts/prepare.py` fails; the message is its own.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < max(self.processes):
            raise Unavailable(f"it binds {max(self.processes)} processes to a core each, and here are {len(cores)}")
        training = [self._training(session, cores[:number]) for number in self.processes]
        preparation: Processes = {"training": training, "preparation": []}
        if not self.pages:
            return preparation
        folder = session.new_path("dump")
        folder.mkdir(parents=True)
        size = write_dump([folder / f"dump-{n + 1}.xml.bz2" for n in range(self.parts)], self.pages)
        costs = CorpusCosts(common=self.common)
        for number in self.processes:
            with _bound(cores[:number]):
                prepared, _ = costs.prepare(folder / "dump-*.xml.bz2", size, folder / str(number))
            preparation["preparation"].append({"processes": number, **prepared})
        shutil.rmtree(folder)
        return preparation

    def _training(self, session: Session, cores: Sequence[int]) -> TrainingProcesses:
        settings = session.settings({"trainer.accelerator": "cpu"})
        vocab_size = len(session.data.tokenizer)
        about = (settings, session.tokenizer, vocab_size, session.rows(settings, vocab_size))
        counts = (self.steps, self.warmup, session.rounds)
        results = session.new_path("results")
        results.mkdir(parents=True)
        try:
            spawn(_train, (list(cores), about, counts, results), nprocs=len(cores))
        except Exception as error:
            raise Unavailable(" ".join(f"training in {len(cores)} processes: {error}".split())[-500:]) from error
        ranks = [torch.load(path, weights_only=True) for path in sorted(results.glob("rank-*.pt"))]
        speeds = [rank["tokens"] / taken for rank in ranks for taken in rank["exchanged"]]
        lost = [
            1 - alone / exchanged
            for rank in ranks
            for alone, exchanged in zip(rank["alone"], rank["exchanged"], strict=True)
        ]
        return {
            "processes": len(cores),
            "parameters": ranks[0]["parameters"],
            "tokens_per_second": spread(speeds),
            "lost": spread(lost),
        }

    def show(self, figures: Processes, console: Console) -> None:
        """Show a line for each number of processes."""
        prepared = {cost["processes"]: cost for cost in figures["preparation"]}
        columns = ("tokens/s a process", "lost to the exchange, %", "preparing, MB/s of XML", "CPU seconds")
        made = table("Processes, each on a core: training with DDP, scripts/prepare.py", "processes", *columns)
        for row in figures["training"]:
            cost = prepared.get(row["processes"])
            costs = (f"{cost['mb_per_second']:,.2f}", f"{cost['cpu_seconds']:,.0f}") if cost else ("", "")
            speed, lost = shown(row["tokens_per_second"]), shown(row["lost"], ".1f", 100)
            made.add_row(str(row["processes"]), speed, lost, *costs)
        console.print(made)
        console.print()

    def panels(self, figures: Processes) -> int:
        """Return 1."""
        return 1

    def draw(self, figures: Processes, axes: Iterator[Axes]) -> None:
        """Draw what each process trains."""
        speeds = {f"{row['processes']}": row["tokens_per_second"] for row in figures["training"]}
        bars(next(axes), "tokens/s a process, by processes", speeds)


class _Step(nn.Module):
    """What DDP wraps: a training step is the forward whose gradients it exchanges."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = self.module.training_step(batch, 0)
        return loss


def _train(
    rank: int,
    cores: Sequence[int],
    about: tuple[dict[str, Any], str, int, str],
    counts: tuple[int, int, int],
    results: Path,
) -> None:
    """Be one of the processes; write how long its steps took."""
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    settings, tokenizer, vocab_size, rows = about
    steps, warmup, rounds = counts
    distributed.init_process_group("gloo", f"file://{results}/meeting", rank=rank, world_size=len(cores))
    loop, facts = ours.plain_loop(settings, tokenizer, vocab_size)
    shared = DistributedDataParallel(_Step(loop.network))
    loop = replace(loop, loss=shared)
    shared.train()
    endless = Endless(ours.rows_of(settings, rows))
    source = iter(endless)
    loop.steps(source, warmup)
    taken: dict[str, list[float]] = {"exchanged": [], "alone": []}
    tokens = 0
    for _ in range(rounds):
        for kind in taken:
            distributed.barrier()
            endless.restart()
            with shared.no_sync() if kind == "alone" else nullcontext():
                taken[kind].append(seconds(lambda: loop.steps(source, steps), "cpu"))
            tokens = endless.tokens
    torch.save({"tokens": tokens, "parameters": facts["parameters"], **taken}, results / f"rank-{rank}.pt")
    distributed.destroy_process_group()


@contextlib.contextmanager
def _bound(cores: Sequence[int]) -> Iterator[None]:
    """Let the processes that are started meanwhile use these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
