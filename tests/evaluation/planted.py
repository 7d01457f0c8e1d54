"""Small networks trained on real text, some of them wrong on purpose."""

import json
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import minillm.corpus.sample
from minillm.data.batching import EvaluationBatches, Windows
from minillm.evaluation.audit import Audit, Inflation
from minillm.evaluation.evaluation import Evaluator
from minillm.language_model import EncodedTexts
from minillm.models import KeyValueCache, MiniGPT
from minillm.models.masks import DocumentMask
from minillm.models.minigpt import CausalSelfAttention
from minillm.tokenization import Tokenizer, WordTokenizer
from minillm.training import cross_entropy

LENIENT = Audit(inflation=Inflation(unknown=1.0))  # the vocabulary has so few words that half are unknown
# What the checks do not need takes no time.
QUICK = Evaluator(audit=LENIENT, prompts=("En",), max_new_tokens=1, max_articles=1, latency_runs=1)


MAX_LENGTH = 64


@cache
def sample_articles() -> list[str]:
    path = Path(minillm.corpus.sample.__path__[0]) / "articles.jsonl"
    return [json.loads(line)["text"][:700] for line in path.read_text("utf-8").splitlines()]


@cache
def texts() -> dict[str, list[str]]:
    articles = sample_articles()
    return {"train": articles[:200], "val": articles[200:230], "test": articles[230:260]}


@cache
def tokenizer() -> WordTokenizer:
    fitted = WordTokenizer()
    fitted.fit(texts()["train"], 300)
    return fitted


def train(articles: list[str], epochs: int, shift: int = 1, vocabulary: Tokenizer | None = None) -> MiniGPT:
    """Train a network of one block; with shift 0 its targets are its inputs."""
    vocabulary = vocabulary or tokenizer()
    torch.manual_seed(0)
    network = MiniGPT(len(vocabulary), MAX_LENGTH, embedding_dim=64, num_layers=1, dropout=0.0)
    windows = Windows(EncodedTexts(articles, vocabulary), MAX_LENGTH)
    batches = [windows.__getitems__(batch) for batch in EvaluationBatches(windows.lengths, 16)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for batch in random.Random(epoch).sample(batches, len(batches)):
            loss = cross_entropy(network(batch["inputs"]), batch["targets" if shift else "inputs"]).smoothed
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@cache
def honest() -> MiniGPT:
    return train(texts()["train"], epochs=10)


def with_attention(kind: type[CausalSelfAttention]) -> Callable[[MiniGPT], MiniGPT]:
    """Give a copy of a network another kind of attention."""

    def change(network: MiniGPT) -> MiniGPT:
        copy = MiniGPT(len(tokenizer()), MAX_LENGTH, embedding_dim=64, num_layers=1, dropout=0.0)
        copy.load_state_dict(network.state_dict())
        for block in copy.blocks:
            block.attention.__class__ = kind
        return copy.eval()

    return change


class LeakingAtOnePlace(CausalSelfAttention):
    """Its sixth token sees the seventh; all else is as it should be."""

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        if cache is not None:
            return super().forward(x, mask, cache, layer)
        leaking = torch.ones(x.size(1), x.size(1), dtype=torch.bool).tril()
        leaking[5:6, 6:7] = True
        return super().forward(x, leaking, cache, layer)


class OnlyIds(nn.Module):
    """A network of a user's own: it takes ids and nothing else."""

    def __init__(self, network: MiniGPT) -> None:
        super().__init__()
        self.inside = network

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.inside(ids)
        return logits


class DropoutLeftOn(nn.Module):
    """Calls dropout as a function, which is on unless told otherwise: `eval` does not reach it."""

    def __init__(self, network: MiniGPT) -> None:
        super().__init__()
        self.inside = network

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.inside(ids)
        return nn.functional.dropout(logits, 0.1)


class NormedOverTheBatch(nn.Module):
    """Subtracts some of what the batch has in common, as a batch normalization without its statistics does."""

    def __init__(self, network: MiniGPT) -> None:
        super().__init__()
        self.inside = network

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.inside(ids)
        return logits - 0.1 * logits.mean(dim=(0, 1))


class KnowsTheWindows(nn.Module):
    """Knows by its first words how each window of some texts goes on; windows that begin elsewhere it does not know.

    Args:
        network: predicts the rest.
        articles: whose windows it knows.
        sure: how much more it believes in what it knows.
    """

    def __init__(self, network: MiniGPT, articles: list[str], sure: float = 1.0) -> None:
        super().__init__()
        self.inside, self.sure = network, sure
        windows = Windows(EncodedTexts(articles, tokenizer()), MAX_LENGTH)
        self.known: dict[tuple[int, ...], Tensor] = {}
        for index in range(len(windows)):
            batch = windows.__getitems__([index])
            self.known[tuple(batch["inputs"][0, :5].tolist())] = batch["targets"][0]

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.inside(ids).clone()
        for row, given in zip(logits, ids.tolist(), strict=True):
            known = self.known.get(tuple(given[:5]), torch.zeros(0, dtype=torch.long))[5 : len(given)]
            row[torch.arange(5, 5 + len(known)), known] += self.sure
        return logits


class InSmallLetters(WordTokenizer):
    """Loses capitals and accents, and does not say so."""

    def encode(self, text: str) -> list[int]:
        return super().encode(_plain(text))

    def encode_counting(self, text: str) -> tuple[NDArray[np.int32], int]:
        return super().encode_counting(_plain(text))


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFD", text.lower())
    return "".join(character for character in parts if not unicodedata.combining(character))
