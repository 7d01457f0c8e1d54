"""The steps of generation: each token, and the candidates that it was drawn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import torch

from minillm.generation import CachedNetwork, Draw, Sampling, generate_tokens
from minillm.inspection.reading import check_count
from minillm.language_model import LanguageModel


class Candidate(NamedTuple):
    """A possible next token.

    Attributes:
        token: its text.
        before: its probability according to the model.
        after: its probability after repetition penalty, temperature, top-k and top-p.
        id: of the token.
    """

    token: str
    before: float
    after: float
    id: int


@dataclass(frozen=True)
class Step:
    """A generated token, and the candidates that it was drawn from.

    Attributes:
        token: its text; ``[EOS]`` if the model ended the article.
        id: of the token.
        before: its probability according to the model, among all tokens.
        after: its probability after repetition penalty, temperature, top-k and top-p.
        candidates: the k tokens with the largest ``before``, in descending order; [PAD], [UNK] and [BOS] are never
            drawn.
        text: prompt and continuation through this token; ends in U+FFFD while a character of several bytes is
            incomplete.
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
    """Implement `LanguageModel.steps`; errors are raised here and not in the iterator."""
    check_count(k, least=0)
    prompt = prompt.rstrip(" ")
    ids = model.prompt_ids(prompt, max_new_tokens)
    model.check_fits("prompt", prompt, ids)
    network = cast(CachedNetwork, model.network)
    draws = generate_tokens(network, [[*ids, *written]], max_new_tokens, sampling, seed, model.device)
    return _steps(model, prompt, [*written], draws, sampling, k)


def _steps(
    model: LanguageModel, prompt: str, written: list[int], draws: Iterator[Draw], sampling: Sampling, k: int
) -> Iterator[Step]:
    name = cache(model.tokenizer.text)
    for draw in draws:
        [token] = draw.tokens
        assert token is not None  # generation stops when its only row ends
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
