"""Autoregressive decoding with a key/value cache."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.errors import DivergedError, SettingError
from minillm.models import KeyValueCache
from minillm.numerics import all_finite, has_float64
from minillm.tokenization import EOS, PAD

FLOAT32 = torch.finfo(torch.float32)
FIRST_GENERATED = EOS  # the smaller ids, [PAD], [UNK] and [BOS], are never generated

MAX_NEW_TOKENS = 100_000  # longer than any article; takes minutes


class CachedNetwork(Protocol):
    """What decoding needs of a network."""

    max_length: int

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache."""

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the input of `head`, (B, T, dim); append the ids (B, T) to the cache."""

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) for the output of `hidden`."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    Args:
        temperature: divides the logits; 0 chooses the most probable token (greedy).
        top_k: sample from this many most probable tokens; None: from all.
        top_p: sample from the fewest most probable tokens whose probabilities add up to at least this (nucleus
            sampling, Holtzman et al. 2020); None: from all.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that occurred (Keskar et
            al. 2019); 1: none.

    Raises:
        SettingError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SettingError("temperature", self.temperature, "must be at least 0 (greedy), such as 0.8")
        if self.top_k is not None and self.top_k < 1:
            raise SettingError("top_k", self.top_k, "must be at least 1, such as 50, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingError("top_p", self.top_p, "must be over 0 and at most 1, such as 0.9, or null for all tokens")
        if not 0 < self.repetition_penalty < float("inf"):
            raise SettingError("repetition_penalty", self.repetition_penalty, "must be over 0, such as 1.2; 1: none")

    def probabilities(self, logits: Tensor, occurred: Tensor | None = None) -> Tensor:
        """Return the distribution of the next token.

        Args:
            logits: (B, V).
            occurred: (B, V) bool, the tokens to penalize for repetition.

        Returns:
            (B, V) probabilities; those of [PAD], [UNK] and [BOS] are 0. ``top_k`` and ``top_p`` also keep the tokens
            that are as probable as the last one they keep.
        """
        scores = self._scores(logits, occurred)
        if self.temperature == 0:
            probabilities = torch.zeros_like(scores).scatter_(1, scores.argmax(dim=-1, keepdim=True), 1)
        else:
            # With a maximum of 0 no score overflows, whatever the temperature, if float32 can represent that.
            temperature = min(max(self.temperature, FLOAT32.tiny), FLOAT32.max)
            scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
            if self.top_k is not None or self.top_p is not None:
                scores = scores.masked_fill(scores < self._threshold(scores), float("-inf"))
            probabilities = scores.softmax(dim=-1)
        return torch.nn.functional.pad(probabilities, (FIRST_GENERATED, 0))

    def choose(self, logits: Tensor, occurred: Tensor | None, draws: Tensor | None) -> Tensor:
        """Return the next token of each row, (B,).

        Args:
            logits: (B, V).
            occurred: as for `probabilities`.
            draws: (B,) float64, uniform over [0, 1); on the CPU if the logits' device has no float64. Not used if the
                temperature is 0.
        """
        if self.temperature == 0 or draws is None:
            return self._scores(logits, occurred).argmax(dim=-1) + FIRST_GENERATED
        # Inverse transform sampling: one draw per row. torch.multinomial makes V, which takes longer than the network.
        probabilities = self.probabilities(logits, occurred).to(draws.device)
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        chosen = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).squeeze(1)
        return chosen.to(logits.device)

    def _scores(self, logits: Tensor, occurred: Tensor | None) -> Tensor:
        """Return the penalized logits of the tokens that can be generated, (B, V - FIRST_GENERATED) float32."""
        scores = logits[:, FIRST_GENERATED:].float()
        if occurred is None or self.repetition_penalty == 1:
            return scores
        penalty = min(max(self.repetition_penalty, FLOAT32.tiny), FLOAT32.max)
        penalized = torch.where(scores > 0, scores / penalty, scores * penalty).clamp(FLOAT32.min, FLOAT32.max)
        return torch.where(occurred[:, FIRST_GENERATED:], penalized, scores)

    def _threshold(self, scores: Tensor) -> Tensor:
        """Return the lowest score (B, 1) that ``top_k`` and ``top_p`` keep."""
        descending = _sorted(scores).flip(-1)
        last = descending.size(-1) - 1
        threshold = descending[:, last if self.top_k is None else min(self.top_k - 1, last), None]
        if self.top_p is not None:
            probabilities = descending.masked_fill(descending < threshold, float("-inf")).softmax(dim=-1)
            # Keep a token if the more probable ones add up to less than top_p: always the first.
            before = probabilities.cumsum(dim=-1) - probabilities
            kept = (before < max(self.top_p, FLOAT32.tiny)) & (probabilities > 0)
            threshold = descending.gather(1, kept.sum(dim=-1, keepdim=True) - 1)
        return threshold


def _sorted(x: Tensor) -> Tensor:
    """Return the rows of (B, V) in ascending order."""
    if x.device.type == "cpu":  # NumPy's sort is 20 times as fast as PyTorch's
        return torch.from_numpy(np.sort(x.numpy()))
    return x.sort(dim=-1).values


class Draw(NamedTuple):
    """One decoding step of all rows.

    Attributes:
        tokens: the new token of each row; [EOS] ends a row, and None is the token of a row that has ended.
        logits: (B, V), of the rows that are still decoded, in their order, and perhaps of rows that have ended.
        occurred: (B, V) bool, the tokens penalized for repetition; None: there is no penalty. The next step changes
            this tensor.
    """

    tokens: list[int | None]
    logits: Tensor
    occurred: Tensor | None


def generate_tokens(
    network: CachedNetwork,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Draw]:
    """Continue several prompts together; yield one `Draw` per step. A row's tokens do not depend on other rows.

    The context is at most the last ``network.max_length`` tokens. When a row exceeds it, the newest half of its window
    is encoded again from position 0, so almost every token costs one token's computation.

    Args:
        network: in eval mode, on ``device``.
        prompts: token ids, [BOS] first; only the end is used of a prompt longer than ``network.max_length``.
        max_new_tokens: maximum number of steps; fewer if every row ends with [EOS].
        sampling: how a token is chosen.
        seed: of the first row's draws; the next row has seed + 1, and so on. None: different draws each time.
        device: of the network.

    Raises:
        SettingError: a seed of more than 64 bits.
        DivergedError: the network's logits are not finite.
    """
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    elif not -(2**63) <= seed < 2**64:
        raise SettingError("seed", seed, "has more than 64 bits; 0 would do")
    rows = [_Row(number, list(prompt), (seed + number) % 2**64) for number, prompt in enumerate(prompts)]
    batch: _Batch | None = None
    for _ in range(max_new_tokens if rows else 0):
        if batch is None or batch.is_full:
            rows = [row for row in rows if not row.has_ended]
            batch = _Batch(network, rows, sampling, device)
        tokens: list[int | None] = [None] * len(prompts)
        for row, token in zip(rows, batch.next_tokens(), strict=True):
            if row.has_ended:
                continue
            tokens[row.number] = token
            row.has_ended = token == EOS
            if not row.has_ended:
                row.ids.append(token)
        yield Draw(tokens, batch.logits, batch.occurred)
        if all(row.has_ended for row in rows):
            return


def check_finite(logits: Tensor) -> None:
    """Check that logits are finite.

    Raises:
        DivergedError: they are not.
    """
    if not (math.isfinite(logits.sum()) or all_finite([logits])):
        raise DivergedError("the model's logits are not finite: its training has diverged; use another checkpoint")


@dataclass
class _Row:
    """A text in progress: the prompt's number, all tokens so far, and the start of the network's context in them."""

    number: int
    ids: list[int]
    seed: int
    start: int = 0
    has_ended: bool = False

    @cached_property
    def random(self) -> np.random.Generator:
        """The row's own generator: other rows and the device do not change its draws."""
        return np.random.default_rng(self.seed)


class _Batch:
    """Rows that share a cache until one of them has filled its window.

    Args:
        network: predicts the tokens.
        rows: the texts so far; the context of a row that exceeds the window is reduced to the window's newest half.
        sampling: how a token is chosen.
        device: of the network.
    """

    def __init__(
        self, network: CachedNetwork, rows: Sequence[_Row], sampling: Sampling, device: torch.device | str
    ) -> None:
        self.network, self.rows, self.sampling = network, rows, sampling
        window = network.max_length
        for row in rows:
            if len(row.ids) - row.start > window:
                row.start = len(row.ids) - max(1, window // 2)
        contexts = [row.ids[row.start :] for row in rows]
        longest = max(map(len, contexts))
        # Padding on the left, as a document of its own.
        self.ids = torch.tensor([[PAD] * (longest - len(context)) + context for context in contexts], device=device)
        self.documents: Tensor | None = None
        if any(len(context) < longest for context in contexts):
            padding = torch.tensor([[longest - len(context)] for context in contexts])
            self.documents = (torch.arange(longest) >= padding).long().to(device)
        with torch.inference_mode():
            self.cache = network.new_cache(len(rows), window)
        # The draws (steps, B) of all steps until the window is full.
        self.draws: Iterator[Tensor | None] = iter(lambda: None, 0)
        if sampling.temperature:
            draws = np.stack([row.random.random(window - longest + 1) for row in rows], axis=1)
            self.draws = iter(torch.from_numpy(draws).to(device if has_float64(device) else "cpu"))
        self.logits = torch.empty(0)
        self.occurred: Tensor | None = None

    @property
    def is_full(self) -> bool:
        """Whether the cache is full."""
        return self.cache.length == self.cache.capacity

    @torch.inference_mode()
    def next_tokens(self) -> list[int]:
        """Return the next token of each row."""
        hidden = self.network.hidden(self.ids, self.documents, self.cache)
        logits = self.logits = self.network.head(hidden[:, -1])
        check_finite(logits)
        if self.occurred is not None:
            self.occurred.scatter_(1, self.ids, True)
        elif self.sampling.repetition_penalty != 1:
            self.occurred = torch.zeros_like(logits, dtype=torch.bool)
            for number, row in enumerate(self.rows):
                self.occurred[number, row.ids] = True
        chosen = self.sampling.choose(logits, self.occurred, next(self.draws))[:, None]
        self.ids, self.documents = chosen, None
        tokens: list[int] = chosen.squeeze(1).tolist()
        return tokens
