"""The project as a contestant: built from a composed config with the objects that `scripts/train.py` uses."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import lightning as L
from omegaconf import DictConfig, OmegaConf

from minillm.arithmetic import Stopwatch
from minillm.benchmarking.loops import Context, Endless, Job, Loss, loop, prepare_device
from minillm.benchmarking.worker import Turns
from minillm.checkpoint import build_network
from minillm.configuration import instantiate
from minillm.data import TextDataModule
from minillm.tokenization import load_tokenizer
from minillm.training import TrainingModule, seed_everything


def prepared_data(config: DictConfig) -> TextDataModule:
    """Return the data of a composed config, prepared."""
    data: TextDataModule = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"))
    data.prepare_data()
    data.setup()
    return data


def train(turns: Turns, job: Job) -> None:
    """Train through Lightning's Trainer, with all callbacks and loggers, as users do."""
    config = OmegaConf.create(job.settings)
    rounds = _Rounds(turns, job)
    callbacks = [*instantiate(config, "callbacks").values(), rounds]
    loggers = list(instantiate(config, "logger").values())
    trainer = instantiate(config, "trainer", callbacks=callbacks, logger=loggers)
    for logger in loggers:
        _ = logger.experiment  # TensorBoard is imported at its first use
    module = _build(turns, job)
    rounds.batches = Endless(prepared_data(config).train_dataloader() if job.batches is None else job.batches)
    trainer.fit(module, train_dataloaders=rounds.batches)


class _Rounds(L.Callback):
    """Stops the training between the turns; each lasts from the end of a batch to the end of another."""

    batches: Endless
    watch: Stopwatch

    def __init__(self, turns: Turns, job: Job) -> None:
        self.turns, self.job, self.next = turns, job, iter(turns)
        self.steps = -job.warmup

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.watch = Stopwatch(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Count; at the end of a turn report its figures and wait for the next."""
        self.steps += 1
        if self.steps < 0 or self.steps % self.job.steps:
            return
        if self.steps == 0:
            self.turns.ready(precision=str(trainer.precision), **self.job.facts(pl_module.network))
        else:
            seconds = self.watch.stop()
            self.turns.done(seconds=seconds, tokens=self.batches.tokens, waited=self.batches.waited)
        next(self.next)
        self.batches.restart()
        self.watch.start()


def alone(module: TrainingModule) -> tuple[Loss, Context]:
    """Return the loss of a batch, and the context of a turn, of a process that trains alone."""
    return lambda batch: module.training_step(batch, 0), lambda turn: nullcontext()


def train_in_loop(turns: Turns, job: Job, how: Callable[[TrainingModule], tuple[Loss, Context]] = alone) -> None:
    """Train the same module in a plain loop."""
    # The trainer prepares the process and chooses the precision.
    trainer = instantiate(OmegaConf.create(job.settings), "trainer", callbacks=[], logger=False)
    module = _build(turns, job).to(job.device)
    module.on_fit_start()  # chooses the code of the step
    warnings.filterwarnings("ignore", ".*trainer. reference is not registered.*")  # nothing is logged here
    loss, context = how(module)
    optimizer = module.make_optimizer(module.network.named_parameters())
    scheduler = module.make_scheduler(optimizer, 1_000_000)
    max_norm = (job.settings["callbacks"].get("gradient_clipping") or {}).get("max_norm", float("inf"))
    loop(turns, job, module, loss, optimizer, str(trainer.precision), max_norm, scheduler, context)


def _build(turns: Turns, job: Job) -> TrainingModule:
    """Return what `scripts/train.py` trains; the imports end here."""
    prepare_device(job.device)
    turns.imported(job.device)
    seed_everything(job.settings["seed"])
    config = OmegaConf.create(job.settings)
    arguments = {
        "network": build_network(job.settings["model"], job.vocab_size),
        "tokenizer": load_tokenizer(job.tokenizer),
        **{name: instantiate(config, name) for name in ("optimizer", "scheduler")},
    }
    return cast(TrainingModule, instantiate(config, "training", settings=job.settings, **arguments))
