"""Language modelling figures of a network on a split, in one pass."""

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from minillm.data.batching import EncodedDocuments, EvaluationBatches, Windows, evaluation_loader
from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.bias import TokenCounts
from minillm.evaluation.schema import SplitFigures
from minillm.numerics import has_float64
from minillm.tokenization import UNK
from minillm.training.predictions import Predictions, predict

SUMMED = ("nats", "hits", "unknown", "unknown_hits")  # over each window, see `ArticleSums`
# On a CPU: the C library returns blocks of over 32 MiB to the system, and page faults to get them again take half as
# long as the matrix product that fills them.
LOGITS_AT_ONCE = 2**22


class Measured(NamedTuple):
    """A network's figures on a split.

    Args:
        figures: loss, perplexity, bits per byte, accuracy, and the number of targets.
        padding: number of padding positions if every window were padded to ``max_length``.
        articles: the sums per article, in the order of the documents.
    """

    figures: SplitFigures
    padding: int
    articles: ArticleSums


@torch.inference_mode()
def measure(
    network: nn.Module,
    documents: EncodedDocuments,
    max_length: int,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    counts: TokenCounts | None = None,
) -> Measured:
    """Return a network's figures on documents: each token once, in windows of ``max_length``, in float32.

    Several processes (torch.distributed) share the documents, and all return the same figures.

    Args:
        network: maps ids (B, T) to logits (B, T, V), in eval mode, on ``device``.
        documents: the documents.
        max_length: tokens of a window, at most.
        batch_size: windows per batch.
        device: of the network.
        counts: updated with every batch.
    """
    windows = Windows(documents, max_length)
    batches = EvaluationBatches(windows.lengths, batch_size, *processes())
    place = torch.device(device) if has_float64(device) else torch.device("cpu")
    sums = torch.zeros(len(SUMMED), len(batches.items), dtype=torch.float64, device=place)
    done, at_once = 0, batch_size
    for batch in evaluation_loader(windows, batches):
        parts = (batch[name].to(device).split(at_once) for name in ("inputs", "targets"))
        for inputs, targets in zip(*parts, strict=True):
            with torch.autocast(torch.device(device).type, enabled=False):
                logits = network(inputs)
            predictions = predict(logits, targets, with_distribution=counts is not None)
            rows = len(inputs)
            sums[:, done : done + rows] = _summed(predictions.to(place))
            done += rows
            if counts is not None:
                counts.update(predictions, inputs)
            if logits.device.type == "cpu":
                at_once = max(1, min(batch_size, LOGITS_AT_ONCE * rows // logits.numel()))
    articles = _by_article(documents, windows, batches, sums)
    figures, tokens, unknown = articles.figures, int(articles.tokens.sum()), int(articles.unknown.sum())
    return Measured(
        {
            "loss": figures["loss"],
            "perplexity": figures["perplexity"],
            "bits_per_byte": figures["bits_per_byte"],
            "accuracy": figures["accuracy"],
            "tokens": tokens,
            "unk_rate": unknown / tokens,
            "accuracy_without_unknown": figures["accuracy_without_unknown"] if unknown < tokens else None,
        },
        padding=len(windows) * max_length - tokens,
        articles=articles,
    )


def _summed(predictions: Predictions) -> Tensor:
    """Return the sums of `SUMMED` over each window of a batch, (4, B) float64."""
    hits = predictions.counted & (predictions.guesses == predictions.targets)
    unknown = predictions.targets == UNK
    summed = (predictions.nats, hits, unknown, hits & unknown)
    return torch.stack([each.sum(dim=1, dtype=torch.float64) for each in summed])


def _by_article(documents: EncodedDocuments, windows: Windows, batches: EvaluationBatches, sums: Tensor) -> ArticleSums:
    """Return the sums of each article, from the windows of all processes.

    Args:
        documents: the articles.
        windows: their windows.
        batches: the order of this process's windows.
        sums: (4, n), the sums of `SUMMED` in this order.
    """
    every = torch.zeros(len(SUMMED), len(windows), dtype=sums.dtype, device=sums.device)
    every[:, torch.from_numpy(np.ascontiguousarray(batches.items)).to(sums.device)] = sums
    if processes()[1] > 1:
        torch.distributed.all_reduce(every)  # each window has a sum in one process, and 0 in the others
    nats, *whole = windows.sums(every.cpu().numpy())
    hits, unknown, unknown_hits = (each.astype(np.int64) for each in whole)
    return ArticleSums(
        page_ids=np.asarray(documents.page_ids, dtype=np.int64),
        tokens=np.asarray(documents.lengths, dtype=np.int64) - 1,
        nats=nats,
        hits=hits,
        unknown=unknown,
        unknown_hits=unknown_hits,
        bytes=np.asarray(documents.bytes, dtype=np.int64),
        unknown_bytes=np.asarray(documents.unknown_bytes, dtype=np.int64),
    )


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
