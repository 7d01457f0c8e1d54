"""How a model writes: at each step what it expected, and what was drawn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import torch

from minillm.generation import CachedNetwork, Draw, Sampling, draws
from minillm.inspection.reading import check_count
from minillm.language_model import LanguageModel


class Candidate(NamedTuple):
    """A token that could have come at a step.

    Attributes:
        token: its text.
        before: its probability as the model gives it.
        after: with which it could be drawn, once repetition penalty, temperature, top-k and top-p had their say.
        id: of the token.
    """

    token: str
    before: float
    after: float
    id: int


@dataclass(frozen=True)
class Step:
    """A token that a model wrote, and what it was drawn from.

    Attributes:
        token: its text; ``[EOS]`` in a last step in which the model ended the article.
        id: of the token.
        before: its probability as the model gives it, among all tokens.
        after: with which it was drawn, once repetition penalty, temperature, top-k and top-p had their say.
        candidates: the k most probable tokens before, the most probable first. [PAD], [UNK] and [BOS] are never drawn.
        text: prompt and continuation so far, this token included; while a character of several bytes is incomplete it
            ends in U+FFFD.
    """

    token: str
    id: int
    before: float
    after: float
    candidates: list[Candidate]
    text: str


def steps(
    model: LanguageModel,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None,
    k: int,
    written: Sequence[int] = (),
) -> Iterator[Step]:
    """Yield what `LanguageModel.steps` says of a continuation; what cannot be continued is refused at once."""
    check_count(k, least=0)
    prompt = prompt.rstrip(" ")
    ids = model.prompt_ids(prompt, max_new_tokens)
    model.check_fits("prompt", prompt, ids)
    network = cast(CachedNetwork, model.network)
    drawn = draws(network, [[*ids, *written]], max_new_tokens, sampling, seed, model.device)
    return _steps(model, prompt, [*written], drawn, sampling, k)


def _steps(
    model: LanguageModel, prompt: str, written: list[int], drawn: Iterator[Draw], sampling: Sampling, k: int
) -> Iterator[Step]:
    name = cache(model.tokenizer.text)
    for draw in drawn:
        [token] = draw.tokens
        assert token is not None  # a row alone goes on until it ends
        written.append(token)
        with torch.inference_mode():
            before = draw.logits.float().softmax(dim=-1)[0]
            after = sampling.probabilities(draw.logits, draw.occurred)[0]
            best = before.topk(min(k, len(before))).indices
            shown = torch.cat([best, best.new_tensor([token])])
            *candidates, own = (
                Candidate(name(number), was, became, number)
                for number, was, became in zip(
                    shown.tolist(), before[shown].tolist(), after[shown].tolist(), strict=True
                )
            )
        yield Step(own.token, token, own.before, own.after, candidates, model.continued(prompt, written))
