"""Decoding: one token after another, with a key/value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minillm.errors import SettingError
from minillm.models import KeyValueCache
from minillm.tokenization import BOS, EOS, PAD, UNK

NEVER_GENERATED = (PAD, UNK, BOS)


class CachedNetwork(Protocol):
    """A network that decoding can use."""

    max_length: int

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache."""

    def __call__(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return logits (B, T, V)."""


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
            (B, V) probabilities; [PAD], [UNK] and [BOS] have none.
        """
        logits = logits.float().clone()
        if occurred is not None and self.repetition_penalty != 1:
            penalized = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(occurred, penalized, logits)
        logits[:, NEVER_GENERATED] = float("-inf")
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.size(-1)).float()
        # Beginning at 0 nothing grows beyond float32, however low the temperature.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None:
            weakest = logits.topk(min(self.top_k, logits.size(-1))).values[:, -1:]
            logits = logits.masked_fill(logits < weakest, float("-inf"))
        if self.top_p is not None:
            descending, order = logits.sort(descending=True, stable=True)
            probabilities = descending.softmax(dim=-1)
            # A token stays while those before it have not reached top_p: the first always does.
            reached = probabilities.cumsum(dim=-1) - probabilities >= self.top_p
            logits = logits.masked_fill(torch.empty_like(reached).scatter_(-1, order, reached), float("-inf"))
        return logits.softmax(dim=-1)


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
    window is read again from position 0 and it goes on from there, so that one token costs one token almost always,
    and what a row gives does not depend on its neighbours.

    Args:
        network: in eval mode, on ``device``.
        prompts: token ids of each, [BOS] first; at least one and at most ``network.max_length`` of them.
        max_new_tokens: steps at most; it ends sooner when every row has come to [EOS].
        sampling: how a token is chosen.
        seed: of the draws; None: a new one each time.
        device: where the network is.

    Yields:
        The new token of each row, None for a row that has come to [EOS].

    Raises:
        SettingError: a seed of more than 64 bits.
    """
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    elif -(2**63) <= seed < 2**64:
        generator.manual_seed(seed)
    else:
        raise SettingError("seed", seed, "has more than 64 bits; 0 would do")
    contexts = [list(prompt) for prompt in prompts]
    if not contexts:
        return
    active = [True] * len(contexts)
    cache: KeyValueCache | None = None
    occurred: Tensor | None = None
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            if cache is None or cache.length == cache.capacity or max(map(len, contexts)) > network.max_length:
                newest = max(1, network.max_length // 2)
                contexts = [ids if len(ids) <= network.max_length else ids[-newest:] for ids in contexts]
                ids, documents = _left_padded(contexts, device)
                cache = network.new_cache(len(contexts), network.max_length)
                logits = network(ids, documents, cache)[:, -1]
            else:
                ids = torch.tensor([[context[-1]] for context in contexts], device=device)
                logits = network(ids, torch.ones_like(ids), cache)[:, -1]
            if sampling.repetition_penalty != 1 and occurred is None:
                occurred = torch.zeros_like(logits, dtype=torch.bool)
                for row, prompt in enumerate(prompts):
                    occurred[row, list(prompt)] = True
            probabilities = sampling.probabilities(logits, occurred)
            chosen = torch.multinomial(probabilities, 1, generator=generator)
            if occurred is not None:
                occurred.scatter_(1, chosen, True)
        step: list[int | None] = []
        for row, token in enumerate(chosen.squeeze(1).tolist()):
            active[row] = active[row] and token != EOS
            step.append(token if active[row] else None)
            # A finished row keeps one token, so that it never outgrows its window or widens the others'.
            contexts[row] = [*contexts[row], token] if active[row] else [EOS]
        if not any(active):
            return
        yield step


def _left_padded(contexts: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) that end together, and documents (B, T): 1 for the tokens, 0 for the padding before them."""
    longest = max(map(len, contexts))
    ids = torch.tensor([[PAD] * (longest - len(context)) + list(context) for context in contexts], device=device)
    documents = torch.tensor([[0] * (longest - len(context)) + [1] * len(context) for context in contexts])
    return ids, documents.to(device)
