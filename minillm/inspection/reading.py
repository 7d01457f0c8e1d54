"""A model's predictions in a text: the surprisal of each token, and the most probable alternatives."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from minillm.data.batching import EvaluationBatches, Windows, evaluation_loader
from minillm.errors import SettingError
from minillm.generation import check_finite
from minillm.language_model import EncodedTexts, LanguageModel
from minillm.numerics import has_float64
from minillm.tokenization import BOS, EOS, SPECIAL_TOKENS, UNK, Placed
from minillm.training.predictions import predict

BATCH_SIZE = 32  # windows, as in `LanguageModel.score`


def surprisal(model: LanguageModel, text: str, k: int) -> pd.DataFrame:
    """Implement `LanguageModel.surprisal`."""
    check_count(k, least=0)
    encoded = EncodedTexts([text], model.tokenizer)
    ids = encoded.documents[0][1:]
    placed = model.tokenizer.placed(text) + [Placed(EOS, len(text), len(text))] * model.tokenizer.ends
    surfaces = [text[start:end] if token == UNK else None for token, start, end in placed]
    windows = Windows(encoded, model.max_length)
    figures = [_expected(model, batch["inputs"], batch["targets"], k) for batch in _batches(windows)]
    nats, own, ranks, best, shares = (
        (np.concatenate(parts) for parts in zip(*figures, strict=True))
        if figures
        else (np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros((0, k), dtype=np.int64), np.zeros((0, k)))
    )
    unknown = np.array([0 if hidden is None else model.tokenizer.unknown_cost(hidden) for hidden in surfaces])
    name = cache(model.tokenizer.text)
    return pd.DataFrame(
        {
            "token": [
                name(token) if hidden is None else hidden
                for (token, _, _), hidden in zip(placed, surfaces, strict=True)
            ],
            "id": ids.astype(np.int64),
            "start": np.array([start for _, start, _ in placed], dtype=np.int64),
            "end": np.array([end for _, _, end in placed], dtype=np.int64),
            "bits": nats / math.log(2) + 8.0 * unknown,
            "rank": ranks,
            "probability": own,
            "alternatives": [
                [(name(token), share) for token, share in zip(tokens, row, strict=True)]
                for tokens, row in zip(best.tolist(), shares.tolist(), strict=True)
            ],
        }
    )


def next_tokens(model: LanguageModel, text: str, k: int) -> pd.DataFrame:
    """Implement `LanguageModel.next`."""
    check_count(k, least=1)
    ids = context_ids(model, text.rstrip(" "))[-model.max_length :]
    with torch.inference_mode():
        logits = model.network(torch.tensor([ids], device=model.device))[0, -1:]
        check_finite(logits)
        logs = _as_float64(logits).log_softmax(dim=-1)[0]
        best = logs.topk(min(k, len(logs)))
    return pd.DataFrame(
        {
            "token": [model.tokenizer.text(token) for token in best.indices.tolist()],
            "id": best.indices.cpu().numpy(),
            "probability": best.values.exp().cpu().numpy(),
            "bits": (-best.values / math.log(2)).cpu().numpy(),
        }
    )


def context_ids(model: LanguageModel, text: str) -> list[int]:
    """Return the ids of a text, [BOS] first."""
    return [BOS, *model.tokenizer.encode(text)]


def context_tokens(model: LanguageModel, text: str) -> list[str]:
    """Implement `LanguageModel.tokens`."""
    name = cache(model.tokenizer.text)
    placed = model.tokenizer.placed(text)
    return [SPECIAL_TOKENS[BOS], *(text[start:end] if token == UNK else name(token) for token, start, end in placed)]


def check_count(k: int, least: int) -> None:
    """Check a number of tokens to show.

    Raises:
        SettingError: it is under ``least``.
    """
    if k < least:
        raise SettingError("k", k, f"must be at least {least}, such as 10")


def _batches(windows: Windows) -> Iterator[dict[str, Tensor]]:
    """Yield a text's windows in order: the loader puts the longest first, and only the last one can be shorter."""
    yield from evaluation_loader(windows, EvaluationBatches(windows.lengths, BATCH_SIZE))


@torch.inference_mode()
def _expected(model: LanguageModel, inputs: Tensor, targets: Tensor, k: int) -> tuple[np.ndarray, ...]:
    """Return a network's predictions of the N targets in (B, T) that are not padding.

    Returns:
        nats (N,) float64; the target's probability (N,) float64; its rank (N,) int64; the k most probable ids (N, k)
        int64 and their probabilities (N, k) float64.
    """
    inputs, targets = inputs.to(model.device), targets.to(model.device)
    logits = model.network(inputs)
    predictions = predict(logits, targets)
    ranks, ids, shares = [], [], []
    # One window at a time: a second tensor of all logits would double the memory.
    for row, target, counted in zip(logits, targets, predictions.counted, strict=True):
        scores, target = row[counted].float(), target[counted]
        check_finite(scores)
        best = scores.topk(min(k, scores.size(-1)), dim=-1)
        ranks.append((scores > scores.gather(-1, target[:, None])).sum(dim=-1) + 1)
        ids.append(best.indices)
        shares.append((best.values - scores.logsumexp(dim=-1, keepdim=True)).exp())
    nats = predictions.nats[predictions.counted].cpu().double().numpy()
    parts = [torch.cat(each).cpu().numpy() for each in (ranks, ids, shares)]
    return nats, np.exp(-nats), parts[0], parts[1], parts[2].astype(np.float64)


def _as_float64(x: Tensor) -> Tensor:
    """Return a tensor as float64, on the CPU if its device has no float64."""
    return (x if has_float64(x.device) else x.cpu()).double()
