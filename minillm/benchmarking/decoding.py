"""How fast a model writes: the project beside transformers' ``generate``, greedily, in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minillm.arithmetic import seconds
from minillm.benchmarking import peers
from minillm.benchmarking.benchmark import Session, left_out
from minillm.benchmarking.loops import Job, prepare_device
from minillm.benchmarking.report import Report, Spread, ratio, shown, spread
from minillm.benchmarking.worker import Turns
from minillm.checkpoint import build_network
from minillm.console import number_table
from minillm.errors import SettingError
from minillm.language_model import LanguageModel
from minillm.tokenization import BOS, EOS, load_tokenizer
from minillm.training import seed_everything

OURS, PEER = "minillm", "transformers"
Prompts = dict[str, list[str]]  # by their number


@dataclass(frozen=True)
class DecodingSpeed:
    """Continues the beginnings of articles, with random weights.

    The project's time includes the way from text to ids and back, the peer's begins and ends with ids. Of each:
    token_ms (one token after a cached prompt) and tokens_per_second by number of prompts, with reading the prompts.

    Args:
        prompts: how many at once; each number is measured, and 1.
        new_tokens: tokens after each prompt.

    Raises:
        SettingError: a number under 1, or too few tokens for a difference.
    """

    prompts: Sequence[int] = (1, 8, 64)
    new_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.prompts, default=0) < 1:
            raise SettingError("prompts", list(self.prompts), "must be numbers from 1 on, such as [1, 8, 64]")
        if self.new_tokens < 2:
            raise SettingError("new_tokens", self.new_tokens, "must be at least 2, such as 64")

    def measure(self, session: Session) -> Report:
        """Return the times of both."""
        context = session.config.data.max_length
        if context - self.new_tokens < 4:
            advice = f"leaves no room for prompts in data.max_length={context}; {context // 2} would do"
            raise SettingError("benchmark.decoding.new_tokens", self.new_tokens, advice)
        job, numbers = session.job(), [str(number) for number in sorted({1, *self.prompts})]
        prompts = {number: _beginnings(session, int(number), context - self.new_tokens) for number in numbers}
        decode = partial(_decode, job=job, prompts=prompts, new_tokens=self.new_tokens)
        contestants = {OURS: partial(decode, prepare=_ours), PEER: partial(decode, prepare=_transformers)}
        outcomes, skipped = session.compete(contestants, [{"what": what} for what in ("token", *numbers)])
        title = f"Decoding: greedy, float32, {self.new_tokens} tokens each; tokens/s by prompts at once"
        table = number_table(title, "", "token, ms", *numbers)
        decoded: dict[str, Any] = {}
        bars: dict[str, Spread] = {}
        for name, (_, *turns) in outcomes.items():
            token, *others = (turns[place :: 1 + len(numbers)] for place in range(1 + len(numbers)))
            token_ms = spread([1000 * turn["seconds"] for turn in token])
            speeds = {
                number: spread([int(number) * self.new_tokens / turn["seconds"] for turn in turns])
                for number, turns in zip(numbers, others, strict=True)
            }
            decoded[name] = {"token_ms": token_ms, "tokens_per_second": speeds}
            table.add_row(name, shown(token_ms, ".2f"), *map(shown, speeds.values()))
            bars |= {f"{name}, {number}": speed for number, speed in speeds.items()}
        figures: dict[str, Any] = {"new_tokens": self.new_tokens, "contestants": {**decoded, **left_out(skipped)}}
        notes, figures["token_ratio"] = [], {}
        if len(decoded) == 2:
            compared = ratio(decoded[OURS]["token_ms"], decoded[PEER]["token_ms"])
            figures["token_ratio"][PEER] = compared
            notes.append(f"The project's time per cached token is {shown(compared, '.2f')} x that of {PEER}.")
        return Report(figures, table, {"decoding, tokens/s by prompts at once": bars}, notes)


def _beginnings(session: Session, number: int, longest: int) -> list[str]:
    """Return beginnings of articles, with lengths that rise evenly up to ``longest`` tokens."""
    tokenizer, corpus = session.data.tokenizer, session.data.corpus
    texts = [row["text"] for split in ("test", "val", "train") for row in islice(corpus.articles(split), 64)]
    beginnings = []
    for place in range(number):
        words = texts[place % len(texts)].split()[:longest]
        most = 2 + (longest - 3) * (place + 1) // number if number > 1 else longest // 2
        while len(words) > 1 and len(tokenizer.encode(" ".join(words))) >= most:
            words.pop()
        beginnings.append(" ".join(words))
    return beginnings


def _decode(
    turns: Turns,
    job: Job,
    prepare: Callable[[Job, Prompts], Callable[[str, int], Any]],
    prompts: Prompts,
    new_tokens: int,
) -> None:
    """Measure what each turn asks for: one token, or continuing a number of prompts."""
    prepare_device(job.device)
    seed_everything(job.settings["seed"])
    write = prepare(job, prompts)

    def taken(number: str, tokens: int) -> float:
        return seconds(lambda: write(number, tokens), job.device)

    for number in prompts:
        write(number, min(3, new_tokens))
    turns.ready()
    for turn in turns:
        if turn["what"] == "token":  # the difference leaves out the time of the prompt
            first = taken("1", 1)
            turns.done(seconds=(taken("1", new_tokens) - first) / (new_tokens - 1))
        else:
            turns.done(seconds=taken(turn["what"], new_tokens))


def _ours(job: Job, prompts: Prompts) -> Callable[[str, int], Any]:
    """Return what continues a number of prompts as `LanguageModel` does."""
    network = build_network(job.settings["model"], job.vocab_size).to(job.device)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == job.vocab_size:
            with torch.no_grad():
                module.weight[EOS] = 0  # no text ends early: some of the other logits are positive
    model = LanguageModel(network, load_tokenizer(job.tokenizer))
    return lambda number, tokens: model.generate_batch(prompts[number], max_new_tokens=tokens, temperature=0.0)


def _transformers(job: Job, prompts: Prompts) -> Callable[[str, int], Any]:
    """Return what continues a number of prompts as transformers' ``generate`` does."""
    network: Any = peers.build(PEER, job.vocab_size, job.settings["model"]).to(job.device).eval()
    encode = load_tokenizer(job.tokenizer).encode
    batches = {
        number: left_padded([[BOS, *encode(text)] for text in texts], job.device) for number, texts in prompts.items()
    }

    def write(number: str, tokens: int) -> None:
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        network.generate(**batches[number], **limits, do_sample=False, use_cache=True, pad_token_id=0)

    return write


def left_padded(prompts: list[list[int]], device: str) -> dict[str, Tensor]:
    """Return prompts of different lengths as one batch for ``generate``."""
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True, padding_side="left").to(device)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}
