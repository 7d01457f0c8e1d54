"""Faults that real projects had are named in a sentence that a student understands, and honest trainings raise none."""

import contextlib
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from honest_trainings import TWENTY, settings
from planted import MAX_LENGTH, QUICK, honest, sample_articles, texts, tokenizer
from torch import Tensor, nn

import minillm

BLOCK = 48


def only_fault(found: Any) -> tuple[str, str]:
    """Return the one check that found a fault, and its sentence, which comes first of all."""
    assert found["trustworthy"] is False
    [name] = [name for name, check in found["audit"].items() if check["verdict"] == "fault"]
    assert found["findings"][0] == found["audit"][name]["finding"]
    return name, found["findings"][0]


class Attention(nn.Module):
    """Causal self-attention over characters, as a small GPT in one file has it; with ``masked`` false it sees all."""

    def __init__(self, width: int, heads: int, masked: bool) -> None:
        super().__init__()
        self.heads, self.masked = heads, masked
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.tril(torch.ones(BLOCK, BLOCK, dtype=torch.bool)))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.queries_keys_values(x).split(width, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        if self.masked:
            scores = scores.masked_fill(~self.get_buffer("mask")[:length, :length], float("-inf"))
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, masked: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, masked)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class CharacterGPT(nn.Module):
    """A GPT over characters that returns logits and a loss, as the small ones in one file do."""

    def __init__(self, size: int, masked: bool, width: int = 48, blocks: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(size, width), nn.Embedding(BLOCK, width)
        self.blocks = nn.Sequential(*(Block(width, heads, masked) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size, bias=False)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        logits = self.head(self.norm(self.blocks(x)))
        loss = None if targets is None else nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


class Characters:
    """A model of somebody's: its network, and its characters as a string of all that there are.

    Args:
        masked: whether its attention is causal.
    """

    max_length = BLOCK

    def __init__(self, masked: bool) -> None:
        together = "\n".join(texts()["train"])
        self.known = sorted({character for articles in texts().values() for text in articles for character in text})
        torch.manual_seed(1)
        self.network = CharacterGPT(len(self.known), masked)
        data = torch.tensor(self.encode(together))
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3)
        for _ in range(150):
            starts = torch.randint(len(data) - BLOCK, (16,)).tolist()
            x = torch.stack([data[start : start + BLOCK] for start in starts])
            y = torch.stack([data[start + 1 : start + BLOCK + 1] for start in starts])
            _, loss = self.network(x, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self.network.eval()

    def encode(self, text: str) -> list[int]:
        return [self.known.index(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.known[token] for token in ids)


@cache
def characters(masked: bool) -> Characters:
    return Characters(masked)


def test_a_small_gpt_in_one_file_whose_mask_is_missing() -> None:
    given = {name: articles[:30] for name, articles in texts().items()}
    name, sentence = only_fault(minillm.audit(characters(masked=False), **given, evaluator=QUICK))  # type: ignore[arg-type]
    assert name == "causality"
    assert "sees the future" in sentence


def test_the_same_gpt_with_its_mask_passes() -> None:
    given = {name: articles[:30] for name, articles in texts().items()}
    found = minillm.audit(characters(masked=True), **given, evaluator=QUICK)  # type: ignore[arg-type]
    assert found["trustworthy"] is True, found["findings"]


def test_a_gpt2_of_transformers_whose_mask_is_switched_off(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from foreign import gpt2
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    class SeesAll(GPT2Attention):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            options["attention_mask"] = hidden_states.new_zeros(1, 1, 1, 1)  # it is added to the scores: nothing
            return super().forward(hidden_states, *arguments[:1], **options)

    path = gpt2(tmp_path)
    network = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    own = transformers.AutoTokenizer.from_pretrained(path)
    # It was never trained: it repeats its input, for its embeddings are its output layer too, and is sure of nothing.
    assert minillm.audit(network, texts()["test"], tokenizer=own, evaluator=QUICK)["trustworthy"] is True
    for block in network.transformer.h:
        block.attn.__class__ = SeesAll
    name, sentence = only_fault(minillm.audit(network, texts()["test"], tokenizer=own, evaluator=QUICK))
    assert name == "causality"
    assert "only later tokens were changed" in sentence


def test_a_masked_language_model_that_is_scored_as_a_causal_one(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from foreign import word_pieces
    from transformers import BertConfig, BertForMaskedLM

    own = word_pieces()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(own), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    network = BertForMaskedLM(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rows = [ids for ids in own(texts()["train"], add_special_tokens=False)["input_ids"] if len(ids) >= 64]
    ids = torch.tensor([row[:64] for row in rows])
    for _ in range(40):  # hides 15 % of the tokens, and learns them from both sides
        chosen = ids[torch.randint(len(ids), (16,))]
        hidden = torch.rand(chosen.shape) < 0.15
        given = chosen.masked_fill(hidden, own.convert_tokens_to_ids("[MASK]"))
        loss = network(given, labels=chosen.masked_fill(~hidden, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    name, sentence = only_fault(minillm.audit(network.eval(), texts()["test"], tokenizer=own, evaluator=QUICK))
    assert name == "causality"
    assert "sees the future" in sentence


def test_a_training_set_with_two_per_cent_of_the_test_set_inside() -> None:
    every = sample_articles()
    train, val, test = every[:200], every[200:230], every[230:430]
    assert len(test) == 200
    found = minillm.audit(
        honest(), test, [*train, *test[50:54]], val, tokenizer=tokenizer(), max_length=MAX_LENGTH, evaluator=QUICK
    )
    name, sentence = only_fault(found)
    assert name == "contamination"
    assert "4 validation or test articles are nearly the same as training articles" in sentence


def test_figures_that_padding_inflates() -> None:
    def audited(reported: dict[str, float] | None) -> Any:
        return minillm.audit(
            honest(), texts()["test"], texts()["train"], texts()["val"], tokenizer=tokenizer(),
            max_length=MAX_LENGTH, reported=reported, evaluator=QUICK,
        )  # fmt: skip

    padded = audited(None)["audit"]["inflation"]
    name, sentence = only_fault(audited({"test/accuracy": padded["accuracy_with_padding"]}))
    assert name == "inflation"
    assert "what counting padding gives" in sentence


@pytest.mark.parametrize("case", [TWENTY[seed] for seed in (0, 12, 18)], ids=lambda case: "-".join(map(str, case)))
def test_an_honest_training_raises_no_alarm(train: Callable[..., Any], tmp_path: Path, case: Any) -> None:
    assert alarms(train, tmp_path, case) == []


@pytest.mark.long
@pytest.mark.parametrize("case", TWENTY, ids=lambda case: "-".join(map(str, case)))
def test_twenty_honest_trainings_raise_no_alarm(train: Callable[..., Any], tmp_path: Path, case: Any) -> None:
    assert alarms(train, tmp_path, case) == []


def alarms(train: Callable[..., Any], folder: Path, case: Any) -> list[str]:
    """Train, and return the sentences of the checks that found a fault."""
    with contextlib.chdir(folder):
        ended = train(*settings(case))
    assert ended.status == 0, ended.stderr
    [path] = folder.rglob("evaluation.json")
    audit = json.loads(path.read_text(encoding="utf-8"))["audit"]
    assert len(audit) == 11
    return [check["finding"] for check in audit.values() if check["verdict"] == "fault"]
