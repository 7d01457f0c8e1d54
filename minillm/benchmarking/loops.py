"""What all contestants that train share: batches, clock, and a plain training loop.

Nothing heavy of the project is imported here, so that a peer's process holds what the peer needs.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minillm.arithmetic import seconds
from minillm.benchmarking.worker import Turns, Unavailable

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """What decides how much a network has to compute.

    Args:
        vocab_size: rows of its embedding and of its head.
        max_length: tokens of context.
        embedding_dim: channels.
        num_layers: blocks.
        num_heads: attention heads a block.
        dropout: its probability.
    """

    vocab_size: int
    max_length: int
    embedding_dim: int
    num_layers: int
    num_heads: int
    dropout: float


def write_rows(path: Path, tokens: Iterable[np.ndarray], max_length: int, num_rows: int, vocab_size: int) -> None:
    """Write the rows that everybody trains on: documents end to end, every place a target.

    Args:
        path: the file to write.
        tokens: ids of each document, [BOS] to [EOS].
        max_length: T.
        num_rows: rows of T + 1 tokens, of which the last T are targets. A text too short for them begins again.
        vocab_size: ids from here on, of a vocabulary larger than that, are folded onto lower ones.
    """
    stream = np.concatenate([*tokens]).astype(np.int64)
    first_word = min(4, vocab_size - 1)  # no special token arises by folding: padding would be no target
    stream = np.where(stream < vocab_size, stream, first_word + stream % (vocab_size - first_word))
    np.save(path, np.resize(stream, num_rows * max_length + 1))


class Rows:
    """Batches of `write_rows`, again and again.

    Args:
        path: the file.
        max_length: T.
        batch_size: B.
    """

    def __init__(self, path: str | Path, max_length: int, batch_size: int) -> None:
        stream = torch.from_numpy(np.load(path))
        inputs, targets = (stream[first : len(stream) - 1 + first].view(-1, max_length) for first in (0, 1))
        zero = torch.zeros((), dtype=torch.long)
        self.batches = [
            {"inputs": x.clone(), "targets": y.clone(), "bytes": zero, "unknown_bytes": zero}
            for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
            if len(x) == batch_size
        ]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Endless:
    """Batches again and again, with an eye on the clock.

    Args:
        batches: one pass over them; gone through anew when it has ended.
        padding: id that is no target.
    """

    def __init__(self, batches: Iterable[Batch], padding: int = 0) -> None:
        self._batches, self._padding = batches, padding
        self.waited, self.tokens = 0.0, 0

    def __len__(self) -> int:
        return 1_000_000_000  # Lightning fetches one batch ahead where it is not told that there is a next one

    def __iter__(self) -> Iterator[Batch]:
        batches = itertools.chain.from_iterable(itertools.repeat(self._batches))
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            self.tokens += int((batch["targets"] != self._padding).sum())
            yield batch

    def restart(self) -> None:
        """Count from here on."""
        self.waited, self.tokens = 0.0, 0


class Step(Protocol):
    """The update after the gradient."""

    def step(self) -> Any:
        """Take a step."""


@dataclass(frozen=True)
class Loop:
    """A plain training loop, as short as it can be.

    Args:
        network: on its device.
        loss: of a batch on that device.
        optimizer: its optimizer.
        device: where it is.
        precision: ``32-true`` or ``bf16-mixed``, by autocast.
        max_norm: longest gradient.
        scheduler: stepped every step.
    """

    network: nn.Module
    loss: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    device: str
    precision: str
    max_norm: float = 1.0
    scheduler: Step | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("32-true", "bf16-mixed"):
            raise Unavailable(f"a plain loop knows 32-true and bf16-mixed, not trainer.precision={self.precision}")

    def run(self, turns: Turns, batches: Iterable[Batch], steps: int, warmup: int, **facts: Any) -> None:
        """Take part: warm up, then a number of steps a turn.

        Args:
            turns: one's turns.
            batches: endless.
            steps: steps a turn.
            warmup: steps before the first turn.
            facts: what is known of the network.
        """
        self.network.train()
        endless = Endless(batches)
        source = iter(endless)
        self.steps(source, warmup)
        turns.ready(precision=self.precision, **facts)
        while True:
            turns.wait()
            endless.restart()
            taken = seconds(lambda: self.steps(source, steps), self.device)
            turns.done(seconds=taken, steps=steps, tokens=endless.tokens)

    def steps(self, batches: Iterator[Batch], number: int) -> None:
        """Take steps."""
        parameters = list(self.network.parameters())
        for batch in itertools.islice(batches, number):
            if self.device != "cpu":
                batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            bf16 = self.precision == "bf16-mixed"
            with torch.autocast(torch.device(self.device).type, torch.bfloat16) if bf16 else nullcontext():
                loss = self.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
            self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)


def take_part_in_decoding(
    turns: Turns,
    network: nn.Module,
    write: Callable[[Any, int], None],
    prompts: dict[str, Any],
    new_tokens: int,
    max_length: int,
    device: str,
) -> None:
    """Do what each turn asks for: ``forward``, ``token``, or the number of prompts to continue.

    Args:
        turns: one's turns.
        network: what decodes, in eval mode.
        write: continues prompts by a number of tokens.
        prompts: in the contestant's own form, by their number.
        new_tokens: tokens to write after each.
        max_length: tokens of one forward.
        device: where the network is.
    """
    row = torch.full((1, max_length), 4, device=device)  # the time does not depend on the words

    def forward(times: int = 20) -> float:
        with torch.inference_mode():
            return seconds(lambda: [network(row) for _ in range(times)], device) / times

    forward(3)
    for several in prompts.values():
        write(several, min(3, new_tokens))
    turns.ready(parameters=sum(parameter.numel() for parameter in network.parameters()))
    while True:
        what = turns.wait()["what"]
        if what == "forward":
            taken = forward()
        elif what == "token":
            # What the prompt costs drops out of the difference.
            first = seconds(lambda: write(prompts["1"], 1), device)
            taken = (seconds(lambda: write(prompts["1"], new_tokens), device) - first) / (new_tokens - 1)
        else:
            taken = seconds(lambda number=what: write(prompts[number], new_tokens), device)  # type: ignore[misc]
        turns.done(seconds=taken)


def prepare_device(device: str) -> None:
    """Let products of float32 matrices use TensorFloat32 on a GPU, for everybody alike: it is each one's best mode."""
    if device != "cpu":
        torch.set_float32_matmul_precision("high")
