"""How well a network predicts a split: one pass over it gives every figure."""

from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from minillm.data.batching import Documents, EvaluationBatches, Windows, evaluation_loader
from minillm.evaluation.bias import TokenCounts
from minillm.evaluation.schema import SplitFigures
from minillm.tokenization import UNK
from minillm.training.metrics import ExactMetric, LanguageModelling
from minillm.training.predictions import Predictions, predict


class Measured(NamedTuple):
    """What a network reaches on a split.

    Args:
        figures: loss, perplexity, bits per byte, accuracy, and the targets they are over.
        padding: positions that would be padding if every window were padded to ``max_length``.
    """

    figures: SplitFigures
    padding: int


class KnownTargets(ExactMetric):
    """How many targets are words of the vocabulary, and how many of these the most probable token hits."""

    full_state_update = False
    known: Tensor
    correct: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("known", "correct"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Predictions) -> None:
        """Add a batch's predictions."""
        predictions = predictions.to(self.device)
        known = predictions.counted & (predictions.targets != UNK)
        self.known += known.sum()
        self.correct += (known & (predictions.guesses == predictions.targets)).sum()

    def compute(self) -> tuple[int, int]:
        """Return both numbers, over all processes."""
        return int(self.known), int(self.correct)


@torch.inference_mode()
def measure(
    network: nn.Module,
    documents: Documents,
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
    modelling, knowing = LanguageModelling().to(device), KnownTargets().to(device)
    windows = Windows(documents, max_length)
    for batch in evaluation_loader(windows, EvaluationBatches(windows.lengths, batch_size, *processes())):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(torch.device(device).type, enabled=False):
            logits = network(batch["inputs"])
        predictions = predict(logits, batch["targets"], with_distribution=counts is not None)
        modelling.update(predictions, batch)
        knowing.update(predictions)
        if counts is not None:
            counts.update(predictions, batch["inputs"])
    figures = {name: value.item() for name, value in modelling.compute().items()}
    tokens = int(windows.lengths.sum())
    known, correct = knowing.compute()
    return Measured(
        {
            "loss": figures["loss"],
            "perplexity": figures["perplexity"],
            "bits_per_byte": figures["bits_per_byte"],
            "accuracy": figures["accuracy"],
            "tokens": tokens,
            "unk_rate": 1 - known / tokens,
            "accuracy_without_unknown": correct / known if known else None,
        },
        padding=len(windows) * max_length - tokens,
    )


def processes() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
