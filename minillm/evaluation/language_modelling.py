"""How well a network predicts a split: one pass over it gives every figure."""

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
# On the processor: pieces of memory of over 32 MiB go back to the system each time, and to get them anew, page by page,
# takes half as long as the product that fills them.
LOGITS_AT_ONCE = 2**22


class Measured(NamedTuple):
    """What a network reaches on a split.

    Args:
        figures: loss, perplexity, bits per byte, accuracy, and the targets they are over.
        padding: positions that would be padding if every window were padded to ``max_length``.
        articles: what each article adds to the figures, in the order of the documents.
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
    """Return what a network reaches on documents: each token once, in windows of ``max_length``, in float32.

    Of several processes (torch.distributed) each reads its share, and all return the figures of the whole.

    Args:
        network: maps ids (B, T) to logits (B, T, V), in eval mode, on ``device``.
        documents: what to predict.
        max_length: longest window.
        batch_size: windows at once.
        device: where the network is.
        counts: is given every batch too, in the same pass.
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
    """Return the sums of each article, of all processes' windows.

    Args:
        documents: the articles.
        windows: what they were cut into.
        batches: the order in which this process had its windows.
        sums: (4, n) of `SUMMED`, in this order.
    """
    every = torch.zeros(len(SUMMED), len(windows), dtype=sums.dtype, device=sums.device)
    every[:, torch.from_numpy(np.ascontiguousarray(batches.items)).to(sums.device)] = sums
    if processes()[1] > 1:
        torch.distributed.all_reduce(every)  # each window is one process's, and 0 in the others
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
    """Return this process's number and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
