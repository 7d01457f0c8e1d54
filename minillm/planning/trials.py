"""Trials: many small trainings, on which the laws of `minillm.planning` are fitted.

A trial ends after a number of tokens, not after a time. So its result does not depend on the machine, and trials can
run beside other work. `machine.py` measures how many tokens a machine trains on per second.
"""

import csv
import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from minillm.command import CONF
from minillm.planning.shapes import heads


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        corpus: name of the text; `run` gets the overrides that it stands for.
        tokens: to predict, over all epochs.
        embedding_dim: channels.
        num_layers: blocks.
        vocab_size: entries of the BPE vocabulary.
        max_length: context in tokens.
        batch_size: rows per batch.
        lr: Muon's learning rate at its peak.
        adamw_lr: that of AdamW, for the embedding and the norms.
        weight_decay: of Muon and AdamW.
        dropout: of the embedding and of each block's output.
        bpe_dropout: probability of leaving out a merge.
        seed: of weights, batches and dropout.
    """

    corpus: str
    tokens: int
    embedding_dim: int
    num_layers: int = 2
    vocab_size: int = 5000
    max_length: int = 256
    batch_size: int = 8
    lr: float = 0.02
    adamw_lr: float = 0.003
    weight_decay: float = 0.5
    dropout: float = 0.05
    bpe_dropout: float = 0.05
    seed: int = 0

    def words(self) -> list[str]:
        """Return its overrides of `scripts/train.py`, without those of the text."""
        num_heads, num_kv_heads = heads(self.embedding_dim)
        return [
            *("experiment=modern", f"seed={self.seed}", "trainer.accelerator=cpu", "trainer.precision=32-true"),
            *(f"data.{name}={getattr(self, name)}" for name in ("vocab_size", "max_length", "batch_size")),
            *(f"model.{name}={getattr(self, name)}" for name in ("embedding_dim", "num_layers")),
            *(f"model.num_heads={num_heads}", f"model.num_kv_heads={num_kv_heads}"),
            *(f"optimizer.{name}={getattr(self, name)}" for name in ("lr", "adamw_lr", "weight_decay")),
            f"model.dropout={{embedding: {self.dropout}, residual: {self.dropout}}}",
            f"data.augmentation.bpe_dropout={self.bpe_dropout}",
            *("trainer.max_epochs=-1", f"trainer.max_tokens={self.tokens}", "trainer.limit_val_batches=0"),
        ]


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Args:
        train_bytes: of the training split.
        train_tokens: of the training split, in this vocabulary.
        parameters: in matrix products, the head included.
        seconds: of processor time on one core.
        val: bits per byte of the validation split.
        test: bits per byte of the test split.
    """

    train_bytes: int
    train_tokens: int
    parameters: int
    seconds: float
    val: float
    test: float


def run(trial: Trial, corpus: Iterable[str], data_dir: str) -> Outcome:
    """Train and evaluate, in this process.

    Args:
        trial: what to train.
        corpus: overrides that choose the text.
        data_dir: folder of the caches.
    """
    import time

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from minillm.arithmetic import matrix_parameters
    from minillm.callbacks import GradientClipping, RandomState
    from minillm.checkpoint import build_network
    from minillm.configuration import instantiate, plain
    from minillm.evaluation.language_modelling import measure
    from minillm.training import seed_everything

    GlobalHydra.instance().clear()
    words = [*corpus, *trial.words(), f"paths.data_dir={data_dir}", "hydra.run.dir=.", "paths.output_dir=."]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF.absolute())):
        config = compose("train", overrides=words)
    seed_everything(trial.seed)
    data = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"))
    callbacks = [RandomState(trial.seed), GradientClipping(1.0)]
    trainer = instantiate(
        config, "trainer", callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    data.prepare_data()
    data.setup()
    network = build_network(plain(config)["model"], len(data.tokenizer))
    parts = {name: instantiate(config, name) for name in ("optimizer", "scheduler")}
    module = instantiate(config, "training", network=network, tokenizer=data.tokenizer, **parts)
    start = time.thread_time()
    trainer.fit(module, data)
    seconds = time.thread_time() - start
    network.eval()
    val, test = (
        measure(network, data.splits[name], trial.max_length, device="cpu").figures["bits_per_byte"]
        for name in ("val", "test")
    )
    size = data.manifest["splits"]["train"]
    return Outcome(size["bytes"], size["tokens"], matrix_parameters(network), seconds, val, test)


def run_all(
    trials: Iterable[Trial], corpora: Mapping[str, list[str]], data_dir: str, processes: int
) -> Iterator[tuple[Trial, Outcome]]:
    """Train side by side, one trial per core; yield each result as soon as it is there."""
    work = [(trial, corpora[trial.corpus], data_dir) for trial in trials]
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(processes):
        numbers.put(number)
    with context.Pool(processes, _begin, (numbers,)) as pool:
        yield from pool.imap_unordered(_run_one, work)


def _begin(numbers: Any) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[numbers.get() % len(cores)]})
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)


def _run_one(about: tuple[Trial, list[str], str]) -> tuple[Trial, Outcome]:
    return about[0], run(*about)


def read(path: Path) -> dict[Trial, Outcome]:
    """Return the trials of a table with their results."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {_from_row(Trial, row): _from_row(Outcome, row) for row in csv.DictReader(file)}


def write(path: Path, outcomes: Mapping[Trial, Outcome]) -> None:
    """Write the table, one row per trial."""
    names = [field.name for kind in (Trial, Outcome) for field in fields(kind)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for trial, outcome in outcomes.items():
            row = {**asdict(trial), **asdict(outcome)}
            writer.writerow({name: f"{value:.6g}" if type(value) is float else value for name, value in row.items()})


def _from_row(kind: Any, row: Mapping[str, str]) -> Any:
    types = get_type_hints(kind)
    return kind(**{field.name: types[field.name](row[field.name]) for field in fields(kind)})
