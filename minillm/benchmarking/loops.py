"""What all contestants share: the job, its batches, and a plain training loop.

Nothing heavy of the project is imported here, so that a peer's process holds only what the peer needs.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minillm.arithmetic import flops_per_token, seconds
from minillm.benchmarking.worker import Turns, Unavailable

Batch = dict[str, Tensor]
Loss = Callable[[Batch], Tensor]
Context = Callable[[dict[str, Any]], AbstractContextManager[None]]  # of a turn


@dataclass(frozen=True)
class Job:
    """What a contestant has to do.

    Args:
        settings: the composed config, as plain values.
        tokenizer: as JSON.
        vocab_size: of the network.
        device: of the network.
        batches: to train on; None: the data module's.
        steps: of training per turn.
        warmup: steps before the first turn.
    """

    settings: dict[str, Any]
    tokenizer: str
    vocab_size: int
    device: str
    batches: list[Batch] | None
    steps: int
    warmup: int

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Return what is known of a network before it is measured."""
        sizes = [self.settings["model"][name] for name in ("num_layers", "embedding_dim", "max_length")]
        count = sum(parameter.numel() for parameter in network.parameters())
        return {"parameters": count, "flops_per_token": flops_per_token(network, *sizes)}


def prepare_device(device: str) -> None:
    """Use TensorFloat32 for products of float32 matrices on a GPU: it is every contestant's fastest mode."""
    if device != "cpu":
        torch.set_float32_matmul_precision("high")


def full_batches(documents: Iterable[np.ndarray], number: int, batch_size: int, max_length: int) -> list[Batch]:
    """Return the batches that all contestants train on: documents end to end, without padding.

    Args:
        documents: ids of each document, [BOS] to [EOS]. If they are too short, they are repeated.
        number: of batches.
        batch_size: B, rows per batch.
        max_length: T, tokens per row.
    """
    stream = np.concatenate([*documents]).astype(np.int64)
    ids = torch.from_numpy(np.resize(stream, number * batch_size * max_length + 1))
    inputs, targets = (ids[first : len(ids) - 1 + first].view(number, batch_size, max_length) for first in (0, 1))
    zero = torch.zeros((), dtype=torch.long)
    return [
        {"inputs": x.clone(), "targets": y.clone(), "bytes": zero, "unknown_bytes": zero}
        for x, y in zip(inputs, targets, strict=True)
    ]


class Endless:
    """Batches again and again; counts their targets and the seconds that the training waits for them.

    Args:
        batches: one pass; it starts again when it ends.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.restart()

    def __len__(self) -> int:
        return 1_000_000_000  # without a length, Lightning fetches one batch ahead

    def __iter__(self) -> Iterator[Batch]:
        batches = itertools.chain.from_iterable(itertools.repeat(self._batches))
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            self.tokens += int((batch["targets"] != 0).sum())
            yield batch

    def restart(self) -> None:
        """Start counting from zero."""
        self.waited, self.tokens = 0.0, 0


def loop(
    turns: Turns,
    job: Job,
    network: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    precision: str,
    max_norm: float = 1.0,
    scheduler: Any = None,
    context: Context = lambda turn: nullcontext(),
) -> None:
    """Train in a plain loop, as short as it can be.

    Args:
        turns: the contestant's turns.
        job: what to do.
        network: on the job's device.
        loss: of a batch on that device.
        optimizer: of the network.
        precision: ``32-true`` or ``bf16-mixed``, by autocast.
        max_norm: maximum norm of the gradient.
        scheduler: stepped after each step.
        context: of a turn.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise Unavailable(f"a plain loop knows 32-true and bf16-mixed, not trainer.precision={precision}")
    parameters, kind = list(network.parameters()), torch.device(job.device).type
    endless = Endless(job.batches or ())
    batches = iter(endless)

    def train(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            batch = {name: tensor.to(job.device, non_blocking=True) for name, tensor in batch.items()}
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16-mixed"):
                value = loss(batch)
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            if scheduler:
                scheduler.step()
            optimizer.zero_grad()

    network.train()
    train(job.warmup)
    turns.ready(precision=precision, **job.facts(network))
    for turn in turns:
        endless.restart()
        with context(turn):
            taken = seconds(lambda: train(job.steps), job.device)
        turns.done(seconds=taken, tokens=endless.tokens, waited=endless.waited)
