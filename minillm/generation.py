"""Decoding: one token after another, with a key/value cache."""

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
FIRST_GENERATED = EOS  # [PAD], [UNK] and [BOS], the ids before it, are never chosen

MAX_NEW_TOKENS = 100_000  # a text longer than any article, and minutes of work


class CachedNetwork(Protocol):
    """A network that decoding can use."""

    max_length: int

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache."""

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, dim), what `head` makes logits of; the cache is extended by the ids (B, T)."""

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V) of what `hidden` returned."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    Args:
        temperature: divides the logits; 0 takes the most probable token (greedy).
        top_k: only so many of the most probable tokens can be chosen; None: all.
        top_p: only the most probable tokens that together reach this probability can be chosen (nucleus sampling,
            Holtzman et al. 2020); None: all.
        repetition_penalty: divides positive and multiplies negative logits of tokens that occurred (Keskar et al.
            2019); 1: none.

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
        """Return what the next token is drawn from.

        Args:
            logits: (B, V).
            occurred: (B, V) bool, tokens that the repetition penalty applies to.

        Returns:
            (B, V) probabilities; [PAD], [UNK] and [BOS] have none. Tokens as probable as the last one that ``top_k`` or
            ``top_p`` lets through come through with it.
        """
        scores = self._scores(logits, occurred)
        if self.temperature == 0:
            probabilities = torch.zeros_like(scores).scatter_(1, scores.argmax(dim=-1, keepdim=True), 1)
        else:
            # Beginning at 0 nothing grows beyond float32, however low the temperature, unless that is 0 in float32.
            temperature = min(max(self.temperature, FLOAT32.tiny), FLOAT32.max)
            scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
            if self.top_k is not None or self.top_p is not None:
                scores = scores.masked_fill(scores < self._weakest(scores), float("-inf"))
            probabilities = scores.softmax(dim=-1)
        return torch.nn.functional.pad(probabilities, (FIRST_GENERATED, 0))

    def choose(self, logits: Tensor, occurred: Tensor | None, draws: Tensor | None) -> Tensor:
        """Return the next token of each row, (B,).

        Args:
            logits: (B, V).
            occurred: as for `probabilities`.
            draws: (B,) float64, uniform over [0, 1); on the processor where the logits' device has no float64. Not
                looked at where the temperature is 0.
        """
        if self.temperature == 0 or draws is None:
            return self._scores(logits, occurred).argmax(dim=-1) + FIRST_GENERATED
        # One draw a row, and the token whose part of [0, 1) it falls into: V of them, as torch.multinomial makes, take
        # longer than the network.
        probabilities = self.probabilities(logits, occurred).to(draws.device)
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        chosen = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).squeeze(1)
        return chosen.to(logits.device)

    def _scores(self, logits: Tensor, occurred: Tensor | None) -> Tensor:
        """Return the logits of what may be chosen, (B, V - FIRST_GENERATED) float32, the occurred ones penalized."""
        scores = logits[:, FIRST_GENERATED:].float()
        if occurred is None or self.repetition_penalty == 1:
            return scores
        penalty = min(max(self.repetition_penalty, FLOAT32.tiny), FLOAT32.max)
        penalized = torch.where(scores > 0, scores / penalty, scores * penalty).clamp(FLOAT32.min, FLOAT32.max)
        return torch.where(occurred[:, FIRST_GENERATED:], penalized, scores)

    def _weakest(self, scores: Tensor) -> Tensor:
        """Return the score (B, 1) under which ``top_k`` and ``top_p`` let none through."""
        descending = _sorted(scores).flip(-1)
        last = descending.size(-1) - 1
        weakest = descending[:, last if self.top_k is None else min(self.top_k - 1, last), None]
        if self.top_p is not None:
            probabilities = descending.masked_fill(descending < weakest, float("-inf")).softmax(dim=-1)
            # A token stays while those before it have not reached top_p: the first always does.
            before = probabilities.cumsum(dim=-1) - probabilities
            stays = (before < max(self.top_p, FLOAT32.tiny)) & (probabilities > 0)
            weakest = descending.gather(1, stays.sum(dim=-1, keepdim=True) - 1)
        return weakest


def _sorted(x: Tensor) -> Tensor:
    """Return the rows of (B, V) in ascending order."""
    if x.device.type == "cpu":  # NumPy's sort is 20 times as fast as PyTorch's there
        return torch.from_numpy(np.sort(x.numpy()))
    return x.sort(dim=-1).values


def generate_tokens(
    network: CachedNetwork,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[list[int | None]]:
    """Continue several prompts at once; yield each step's token of every row.

    A row sees at most the last ``network.max_length`` tokens. When it would outgrow that, the newest half of its
    window is read again from position 0 and it goes on from there, so that one token costs one token almost always.
    What a row gives does not depend on its neighbours.

    Args:
        network: in eval mode, on ``device``.
        prompts: token ids of each, [BOS] first; at least one, and of more than ``network.max_length`` the end is seen.
        max_new_tokens: steps at most; it ends sooner when every row has come to [EOS].
        sampling: how a token is chosen.
        seed: of the first row's draws; each further row has the next one. None: new ones each time.
        device: where the network is.

    Yields:
        The new token of each row, None for a row that has come to [EOS].

    Raises:
        SettingError: a seed of more than 64 bits.
        DivergedError: the network's logits are not finite.
    """
    for draw in draws(network, prompts, max_new_tokens, sampling, seed, device):
        step = [None if token == EOS else token for token in draw.tokens]
        if any(token is not None for token in step):
            yield step


class Draw(NamedTuple):
    """One step of all rows that had not ended, and what their tokens were drawn from.

    Attributes:
        tokens: of every row, [EOS] where it ends now, None where it had ended before.
        logits: (B, V), of the rows that are still read, in their order. A row that has ended may be among them.
        occurred: (B, V) bool, tokens that the repetition penalty applied to; None: there is none. Both are right until
            the next step.
    """

    tokens: list[int | None]
    logits: Tensor
    occurred: Tensor | None


def draws(
    network: CachedNetwork,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Draw]:
    """Do what `generate_tokens` does, and yield what each token was drawn from too; arguments and errors as there."""
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
    """Check that something can be read from logits.

    Raises:
        DivergedError: they are not finite.
    """
    if not (math.isfinite(logits.sum()) or all_finite([logits])):
        raise DivergedError("the model's predictions are no finite numbers: its training has diverged; use another")


@dataclass
class _Row:
    """A text that is being written: the prompt's place, all tokens so far, and of which on the network sees them."""

    number: int
    ids: list[int]
    seed: int
    start: int = 0
    has_ended: bool = False

    @cached_property
    def random(self) -> np.random.Generator:
        """The row's own draws: neither its neighbours nor the device change them."""
        return np.random.default_rng(self.seed)


class _Batch:
    """Rows that are read at once and then go on together, until one of them has filled its window.

    Args:
        network: what predicts.
        rows: the texts so far; one that has outgrown its window is set to begin at its newest half.
        sampling: how a token is chosen.
        device: where the network is.
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
        # They end together; what is missing before the beginning of a shorter one counts as another document.
        self.ids = torch.tensor([[PAD] * (longest - len(context)) + context for context in contexts], device=device)
        self.documents: Tensor | None = None
        if any(len(context) < longest for context in contexts):
            padding = torch.tensor([[longest - len(context)] for context in contexts])
            self.documents = (torch.arange(longest) >= padding).long().to(device)
        with torch.inference_mode():
            self.cache = network.new_cache(len(rows), window)
        # The draws (steps, B) of all steps until it is full, those after the reading and after each further token.
        self.draws: Iterator[Tensor | None] = iter(lambda: None, 0)
        if sampling.temperature:
            draws = np.stack([row.random.random(window - longest + 1) for row in rows], axis=1)
            self.draws = iter(torch.from_numpy(draws).to(device if has_float64(device) else "cpu"))
        self.logits = torch.empty(0)
        self.occurred: Tensor | None = None

    @property
    def is_full(self) -> bool:
        """Whether a row has filled its window."""
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
