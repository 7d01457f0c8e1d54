"""The project as a contestant: built from a composed config with the public objects that `scripts/train.py` uses."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from minillm.arithmetic import Stopwatch, flops_per_token
from minillm.benchmarking.loops import (
    Batch,
    Endless,
    Loop,
    Rows,
    Sizes,
    prepare_device,
    take_part_in_decoding,
)
from minillm.benchmarking.worker import Turns
from minillm.checkpoint import build_network
from minillm.configuration import instantiate, plain
from minillm.data import TextDataModule
from minillm.language_model import LanguageModel
from minillm.tokenization import EOS, Tokenizer, load_tokenizer
from minillm.training import TrainingModule, seed_everything


def sizes_of(settings: dict[str, Any], vocab_size: int) -> Sizes:
    """Return the sizes in a composed config."""
    model = settings["model"]
    dropout = model["dropout"]
    if isinstance(dropout, dict):  # by place; a peer has the same everywhere
        dropout = max(dropout.values(), default=0.0)
    names = ("max_length", "embedding_dim", "num_layers", "num_heads")
    return Sizes(vocab_size=vocab_size, dropout=dropout, **{name: model[name] for name in names})


def build(settings: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> TrainingModule:
    """Return what `scripts/train.py` trains.

    Args:
        settings: the composed config, as plain values.
        tokenizer: goes into the checkpoint.
        vocab_size: of the network; it may have more entries than the tokenizer.
    """
    seed_everything(settings["seed"])
    config = OmegaConf.create(settings)
    return cast(
        TrainingModule,
        instantiate(
            config,
            "training",
            network=build_network(settings["model"], vocab_size),
            tokenizer=tokenizer,
            optimizer=instantiate(config, "optimizer"),
            scheduler=instantiate(config, "scheduler"),
            settings=settings,
        ),
    )


def train(
    turns: Turns,
    settings: dict[str, Any],
    tokenizer: str,
    vocab_size: int,
    steps: int,
    warmup: int,
    rows: str | None = None,
) -> None:
    """Train through Lightning's Trainer, with all callbacks and loggers, as users do.

    Args:
        turns: one's turns.
        settings: the composed config, as plain values.
        tokenizer: path of the tokenizer.
        vocab_size: of the network.
        steps: steps a turn.
        warmup: steps before the first turn.
        rows: path of the rows to train on; None: what the data module gives.
    """
    config = OmegaConf.create(settings)
    rounds = _Rounds(turns, steps, warmup)
    callbacks = [*instantiate(config, "callbacks").values(), rounds]
    loggers = list(instantiate(config, "logger").values())
    trainer = instantiate(config, "trainer", callbacks=callbacks, logger=loggers)
    for logger in loggers:
        _ = logger.experiment  # TensorBoard is imported at its first use
    device = str(trainer.strategy.root_device)
    prepare_device(device)
    turns.imported(device)
    module = build(settings, _tokenizer(tokenizer), vocab_size)
    rounds.batches = Endless(_batches(config, rows))
    rounds.facts = _facts(module, settings, vocab_size)
    trainer.fit(module, train_dataloaders=rounds.batches)


class _Rounds(L.Callback):
    """Has the training stop and wait between one's turns.

    A turn lasts from the end of one batch to the end of another, so all costs of a step fall into some turn.
    """

    batches: Endless
    facts: dict[str, Any]

    def __init__(self, turns: Turns, steps: int, warmup: int) -> None:
        self.turns, self.steps_left = turns, warmup
        self.steps, self.warming_up = steps, True
        self.watch: Stopwatch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.watch = Stopwatch(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Count; at the end of a turn hand in its figures and wait for the next."""
        self.steps_left -= 1
        if self.steps_left:
            return
        if self.warming_up:
            self.warming_up = False
            self.turns.ready(precision=str(trainer.precision), **self.facts)
        else:
            taken = self.watch.stop()
            self.turns.done(seconds=taken, steps=self.steps, tokens=self.batches.tokens, waited=self.batches.waited)
        self.turns.wait()
        self.steps_left = self.steps
        self.batches.restart()
        self.watch.start()


def loop(
    turns: Turns, settings: dict[str, Any], tokenizer: str, vocab_size: int, steps: int, warmup: int, rows: str
) -> None:
    """Train the same module in a bare loop; the arguments are those of `train`."""
    turns.imported(_device(settings))
    bare, facts = plain_loop(settings, tokenizer, vocab_size)
    bare.run(turns, rows_of(settings, rows), steps, warmup, **facts)


def decode(
    turns: Turns, settings: dict[str, Any], tokenizer: str, prompts: dict[str, list[str]], new_tokens: int, device: str
) -> None:
    """Continue prompts with a network of random weights.

    Args:
        turns: one's turns; each says what to do: ``forward``, ``token``, or a number of prompts.
        settings: the composed config, as plain values.
        tokenizer: path of the tokenizer.
        prompts: by their number.
        new_tokens: tokens to write after each.
        device: where to.
    """
    turns.imported(device)
    prepare_device(device)
    seed_everything(settings["seed"])
    words = _tokenizer(tokenizer)
    network = build_network(settings["model"], len(words)).to(device)
    _never_end(network, len(words))
    model = LanguageModel(network, words)

    def write(prompts: Sequence[str], tokens: int) -> None:
        model.generate_batch(prompts, max_new_tokens=tokens, temperature=0.0)

    take_part_in_decoding(turns, network, write, prompts, new_tokens, model.max_length, device)


def _never_end(network: nn.Module, vocab_size: int) -> None:
    """Let no text end by itself: of thousands of random logits some are over the 0 that [EOS] gets."""
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == vocab_size:
            with torch.no_grad():
                module.weight[EOS] = 0


def plain_loop(settings: dict[str, Any], tokenizer: str, vocab_size: int) -> tuple[Loop, dict[str, Any]]:
    """Return a bare loop around what `build` makes, and what is known of the network; the arguments are its own."""
    config = OmegaConf.create(settings)
    # The trainer sets up the process, and knows device and precision.
    trainer = instantiate(config, "trainer", callbacks=[], logger=False)
    device = str(trainer.strategy.root_device)
    prepare_device(device)
    module = build(settings, _tokenizer(tokenizer), vocab_size).to(device)
    module.on_fit_start()  # chooses the code of the step
    warnings.filterwarnings("ignore", ".*trainer. reference is not registered.*")  # nothing is logged here
    optimizer = module.make_optimizer(module.network.named_parameters())
    clipping = settings["callbacks"].get("gradient_clipping") or {}
    bare = Loop(
        module,
        lambda batch: module.training_step(batch, 0),
        optimizer,
        device,
        str(trainer.precision),
        clipping.get("max_norm", float("inf")),
        module.make_scheduler(optimizer, 1_000_000),
    )
    return bare, _facts(module, settings, vocab_size)


def _facts(module: TrainingModule, settings: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    sizes = sizes_of(settings, vocab_size)
    return {
        "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "flops_per_token": flops_per_token(module.network, sizes.num_layers, sizes.embedding_dim, sizes.max_length),
        "dropout": sizes.dropout,
    }


def _device(settings: dict[str, Any]) -> str:
    accelerator = settings["trainer"]["accelerator"]
    return "cuda:0" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def _tokenizer(path: str) -> Tokenizer:
    return load_tokenizer(Path(path).read_text(encoding="utf-8"))


def rows_of(settings: dict[str, Any], path: str) -> Rows:
    """Return the batches at a path, as a composed config's settings have them."""
    return Rows(path, settings["data"]["max_length"], settings["data"]["batch_size"])


def _batches(config: DictConfig, rows: str | None) -> Iterable[Batch]:
    if rows is not None:
        return rows_of(plain(config), rows)
    data: TextDataModule = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"))
    data.prepare_data()
    data.setup()
    return data.train_dataloader()
