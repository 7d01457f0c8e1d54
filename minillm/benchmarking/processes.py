"""What a second process brings: training with DDP, and preparing a dump, each process on a core of its own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from minillm.benchmarking import ours
from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.corpus import prepare
from minillm.benchmarking.dumps import write_dump
from minillm.benchmarking.loops import Batch, Context, Job, Loss
from minillm.benchmarking.report import Report, shown, spread
from minillm.benchmarking.worker import Turns, Unavailable
from minillm.console import number_table
from minillm.errors import SettingError
from minillm.models.sizes import check_sizes
from minillm.training import TrainingModule


@dataclass(frozen=True)
class ProcessScaling:
    """Trains with DDP in several processes, and prepares a dump with several, on the CPU.

    Each process has one core and one thread. In each round the same steps are taken with the gradients exchanged and
    without (``no_sync``), so that the cost of the exchange is measured at the same load of the machine. Of each number
    of processes: tokens_per_second of one process, over rounds and processes; lost, the share of the time that the
    exchange takes; the preparation's figures as of `CorpusCosts`.

    Args:
        processes: their numbers.
        steps: of training per round.
        warmup: steps before.
        pages: of the dump, see `write_dump`; 0: nothing is prepared.
        parts: files of the dump.
        common: overrides of `scripts/prepare.py`.

    Raises:
        SettingError: a number under 1, or fewer than 100 pages.
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
        check_sizes(steps=self.steps, warmup=self.warmup, parts=self.parts)
        if self.pages and self.pages < 100:
            raise SettingError("pages", self.pages, "must be at least 100, such as 5000, or 0 to prepare nothing")

    def measure(self, session: Session) -> Report:
        """Return the figures.

        Raises:
            Unavailable: there are too few cores, or the system cannot bind processes to cores.
            OutsideError: `scripts/prepare.py` fails; the message is its own.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < max(self.processes):
            raise Unavailable(f"it binds {max(self.processes)} processes to a core each, and here are {len(cores)}")
        training = [self._train(session, cores[:number]) for number in self.processes]
        preparation = self._prepare(session.new_path("dump"), cores) if self.pages else []
        columns = ("tokens/s per process", "lost to the exchange, %", "preparing, MB/s of XML", "CPU seconds")
        table = number_table("Processes, each on a core: training with DDP, scripts/prepare.py", "processes", *columns)
        for place, row in enumerate(training):
            costs = [(f"{cost['mb_per_second']:,.2f}", f"{cost['cpu_seconds']:,.0f}") for cost in preparation]
            speed, lost = shown(row["tokens_per_second"]), shown(row["lost"], ".1f", 100)
            table.add_row(str(row["processes"]), speed, lost, *(costs[place] if costs else ()))
        speeds = {str(row["processes"]): row["tokens_per_second"] for row in training}
        charts = {"tokens/s per process, by processes": speeds}
        return Report({"training": training, "preparation": preparation}, table, charts)

    def _prepare(self, folder: Path, cores: Sequence[int]) -> list[dict[str, float]]:
        folder.mkdir(parents=True)
        size = write_dump([folder / f"dump-{number + 1}.xml.bz2" for number in range(self.parts)], self.pages)
        prepared = []
        for number in self.processes:
            cost, _ = prepare(folder / "dump-*.xml.bz2", size, folder / str(number), self.common, cores[:number])
            prepared.append({"processes": number, **cost})
        return prepared

    def _train(self, session: Session, cores: Sequence[int]) -> dict[str, Any]:
        job = replace(session.job(None, self.steps, self.warmup, accelerator="cpu"), device="cpu")
        share = partial(_share, job=job, cores=cores, meeting=session.new_path("meeting"))
        ranks = {f"process {rank + 1}": partial(share, rank=rank) for rank in range(len(cores))}
        outcomes, skipped = session.compete(ranks, [{"exchange": True}, {"exchange": False}], together=True)
        if skipped:
            raise Unavailable(next(iter(skipped.values())))
        pairs = [pair for turns in outcomes.values() for pair in zip(turns[1::2], turns[2::2], strict=True)]
        return {
            "processes": len(cores),
            "parameters": outcomes["process 1"][0]["parameters"],
            "tokens_per_second": spread([exchanged["tokens"] / exchanged["seconds"] for exchanged, _ in pairs]),
            "lost": spread([1 - alone["seconds"] / exchanged["seconds"] for exchanged, alone in pairs]),
        }


def _share(turns: Turns, job: Job, rank: int, cores: Sequence[int], meeting: Path) -> None:
    """Be one of the processes of a training; they meet at a file."""
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=len(cores))
    ours.train_in_loop(turns, job, _together)


def _together(module: TrainingModule) -> tuple[Loss, Context]:
    """Return a loss whose gradients are exchanged, except in turns without."""
    shared = DistributedDataParallel(_Step(module))

    @contextmanager
    def exchange(turn: dict[str, Any]) -> Iterator[None]:
        distributed.barrier()
        with nullcontext() if turn["exchange"] else shared.no_sync():
            yield

    return shared, exchange


class _Step(nn.Module):
    """What DDP wraps: a forward pass whose gradients it exchanges."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = self.module.training_step(batch, 0)
        return loss
