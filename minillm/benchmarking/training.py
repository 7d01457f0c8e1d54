"""How fast training is, and in how much memory: the project beside other libraries, on the same batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from minillm.benchmarking import ours, peers
from minillm.benchmarking.benchmark import Session, left_out
from minillm.benchmarking.loops import Job
from minillm.benchmarking.report import Report, overhead, ratio, shown, spread
from minillm.benchmarking.worker import Figures, Turns
from minillm.console import number_table
from minillm.errors import SettingError
from minillm.models.sizes import check_sizes

TRAINER, LOOP, DATA = "minillm", "minillm-loop", "minillm-data"
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
Own = Literal["minillm", "minillm-loop", "minillm-data"]
Name = Own | Literal["transformers-float32", "transformers-bf16", "litgpt-float32", "litgpt-bf16"]


@dataclass(frozen=True)
class TrainingSpeed:
    """Trains all contestants in turn.

    Of each: step_ms, tokens_per_second (targets), mfu (share of the machine's matrix-product peak in its precision),
    wait_share (of the step, for its batch) and memory (MiB: training is the peak without the imports). The speedup is
    the project's tokens/s over each peer's, the overhead the share of the step that Trainer, callbacks and logging
    take.

    Args:
        contestants: ``minillm`` trains through Lightning's Trainer with all callbacks and loggers, ``minillm-loop`` the
            same module in a plain loop, ``minillm-data`` through the Trainer on the data module's batches; peers are
            named by library and precision.
        steps: per turn.
        warmup: steps before the first turn.
        vocab_size: of the networks, at least the tokenizer's; None: the tokenizer's.

    Raises:
        SettingError: no contestant, or a number under 1.
    """

    contestants: Sequence[Name]
    steps: int = 10
    warmup: int = 5
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if not self.contestants:
            raise SettingError("contestants", list(self.contestants), f"nobody takes part; [{TRAINER}] would do")
        check_sizes(steps=self.steps, warmup=self.warmup, vocab_size=self.vocab_size)

    def measure(self, session: Session) -> Report:
        """Return speed and memory of each."""
        job = session.job(self.vocab_size, self.steps, self.warmup)
        outcomes, skipped = session.compete({name: _contestant(name, job) for name in self.contestants})
        trained = {name: self._trained(session, outcome) for name, outcome in outcomes.items()}
        figures: dict[str, Any] = {
            "vocab_size": job.vocab_size,
            "steps": self.steps,
            "contestants": {**trained, **left_out(skipped)},
            "overhead": None,
            "speedup": {},
        }
        own = trained.get(TRAINER)
        if own and LOOP in trained:
            figures["overhead"] = overhead(own["step_ms"], trained[LOOP]["step_ms"])
        for name, peer in trained.items():
            if own and not name.startswith(TRAINER):
                figures["speedup"][name] = ratio(own["tokens_per_second"], peer["tokens_per_second"])
        return _report(figures, trained, job)

    def _trained(self, session: Session, outcome: list[Figures]) -> dict[str, Any]:
        facts, *turns = outcome
        speeds = [turn["tokens"] / turn["seconds"] for turn in turns]
        peak = session.peak(facts["precision"])
        return {
            **facts,
            "step_ms": spread([1000 * turn["seconds"] / self.steps for turn in turns]),
            "tokens_per_second": spread(speeds),
            "mfu": spread([speed * facts["flops_per_token"] / peak for speed in speeds]),
            "wait_share": spread([turn["waited"] / turn["seconds"] for turn in turns]),
            "memory": turns[-1]["memory"],
        }


def _contestant(name: str, job: Job) -> Callable[[Turns], None]:
    if name == LOOP:
        return partial(ours.train_in_loop, job=job)
    if name.startswith(TRAINER):
        return partial(ours.train, job=replace(job, batches=None) if name == DATA else job)
    library, precision = name.split("-")
    return partial(peers.train, job=job, library=library, precision=PRECISIONS[precision])


def _report(figures: dict[str, Any], trained: Mapping[str, dict[str, Any]], job: Job) -> Report:
    model, batch = job.settings["model"], f"{job.settings['data']['batch_size']} x {job.settings['data']['max_length']}"
    table = number_table(
        f"Training: {model['num_layers']} layers, {model['embedding_dim']} wide, vocabulary {job.vocab_size:,}, "
        f"batch {batch}",
        *("", "precision", "tokens/s", "ms per step", "of peak", "MiB", "in all"),
    )
    for name, found in trained.items():
        speed, share = f"{found['tokens_per_second']['median']:,.0f}", f"{found['mfu']['median']:.1%}"
        memory = [f"{found['memory'][kind]:,.0f}" for kind in ("training", "peak")]
        table.add_row(name, found["precision"], speed, shown(found["step_ms"], ",.1f"), share, *memory)
    notes = ["of peak: of the speed of matrix products; in all: with the memory that imports take"]
    if model["dropout"] and any(name.startswith("litgpt") for name in trained):
        notes.append("litgpt has no dropout")
    if figures["overhead"]:
        notes.append(f"Trainer, callbacks and logging take {shown(figures['overhead'], '.1f', 100)} % of the step")
    if DATA in trained:
        waits = shown(trained[DATA]["wait_share"], ".2f", 100)
        notes.append(f"{DATA}: a step waits {waits} % of its time for the data module's batch")
    for name, speedup in figures["speedup"].items():
        notes.append(f"{TRAINER} has {shown(speedup, '.2f')} x the tokens/s of {name}")
    charts = {
        "training, tokens/s": {name: found["tokens_per_second"] for name, found in trained.items()},
        "training, peak memory without imports, MiB": {
            name: spread([found["memory"]["training"]]) for name, found in trained.items()
        },
    }
    return Report(figures, table, charts, notes)
