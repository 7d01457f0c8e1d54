import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from minillm.data import Batch, TextDataModule
from minillm.evaluation.bias import PredictionBias, TokenCounts
from minillm.tokenization import PAD, UNK
from minillm.training import LanguageModelling
from minillm.training.predictions import predict

V = 30


def batches() -> list[tuple[torch.Tensor, Batch]]:
    """Return uneven batches with padding, some [UNK] targets, and one batch of padding alone."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for rows, length, padded in (4, 9, 11), (1, 1, 0), (7, 3, 2), (2, 2, 4), (1, 40, 39):
        targets = torch.randint(1, V, (rows * length,), generator=generator)
        targets[rows * length - padded :] = PAD
        unknown = int((targets == UNK).sum())
        batch = {
            "targets": targets.view(rows, length),
            "bytes": torch.tensor(5 * rows * length - padded),
            "unknown_bytes": torch.tensor(7 * unknown),
        }
        made.append((torch.randn(rows, length, V, generator=generator) * 5, batch))
    return made


def add(metric: LanguageModelling, logits: torch.Tensor, batch: Batch) -> None:
    metric.update(predict(logits, batch["targets"]), batch)


def test_the_figures_are_those_of_float64_over_all_tokens_at_once() -> None:
    metric, bias = LanguageModelling(), PredictionBias()
    nats, hits, differences = [], [], []
    for logits, batch in batches():
        add(metric, logits, batch)
        bias.update(logits.argmax(dim=-1), batch["targets"])
        z = logits.double().numpy()
        for row, place in np.ndindex(*batch["targets"].shape):
            target = int(batch["targets"][row, place])
            if target != PAD:
                p = np.exp(z[row, place]) / np.exp(z[row, place]).sum()
                nats.append(-math.log(p[target]))
                hits.append(int(p.argmax() == target))
                differences.append(int(p.argmax()) - target)
    total_bytes = sum(int(batch["bytes"]) for _, batch in batches())
    unknown_bytes = sum(int(batch["unknown_bytes"]) for _, batch in batches())
    assert unknown_bytes > 0
    figures = {name: value.item() for name, value in metric.compute().items()}
    assert figures == {
        "loss": pytest.approx(np.mean(nats), rel=1e-6),
        "perplexity": pytest.approx(math.exp(np.mean(nats)), rel=1e-5),
        "accuracy": np.mean(hits),
        "bits_per_byte": pytest.approx((sum(nats) / math.log(2) + 8 * unknown_bytes) / total_bytes, rel=1e-6),
    }
    assert {name: value.item() for name, value in bias.compute().items()} == {
        "prediction_bias": pytest.approx(np.mean(differences)),
        "absolute_bias": pytest.approx(np.mean(np.abs(differences))),
        "bias_variance": pytest.approx(np.var(differences)),
    }


def test_how_the_tokens_fall_into_batches_changes_nothing() -> None:
    at_once, in_parts = LanguageModelling(), LanguageModelling()
    logits, batch = batches()[0]
    add(at_once, logits, batch)
    zero = torch.tensor(0)
    for row in range(4):
        part = {"targets": batch["targets"][row, None], "bytes": zero, "unknown_bytes": zero}
        add(in_parts, logits[row, None], part if row else {**batch, "targets": batch["targets"][:1]})
    for name, value in at_once.compute().items():
        torch.testing.assert_close(in_parts.compute()[name], value, rtol=1e-6, atol=0)


def test_an_unknown_target_costs_eight_bits_for_each_byte_it_hides_and_one_more_byte() -> None:
    even = torch.zeros(1, 4, 16)  # every token costs 4 bits
    batch = {"targets": torch.tensor([[5, UNK, 6, 7]]), "bytes": torch.tensor(20)}
    metric = LanguageModelling()
    add(metric, even, {**batch, "unknown_bytes": torch.tensor(9 + 1)})
    assert metric.compute()["bits_per_byte"].item() == pytest.approx((4 * 4 + 8 * 10) / 20)


def test_a_million_tokens_are_summed_without_loss() -> None:
    logits = torch.zeros(1, 50_000, 3)
    batch = {
        "targets": torch.ones(1, 50_000, dtype=torch.long),
        "bytes": torch.tensor(50_000),
        "unknown_bytes": torch.tensor(0),
    }
    metric = LanguageModelling()
    for _ in range(20):
        add(metric, logits, batch)
    assert metric.compute()["loss"].item() == pytest.approx(math.log(3), rel=1e-7)


def test_a_reset_forgets_everything() -> None:
    metric = LanguageModelling()
    add(metric, *batches()[0])
    metric.reset()
    add(metric, *batches()[2])
    alone = LanguageModelling()
    add(alone, *batches()[2])
    assert metric.compute() == alone.compute()


def test_where_there_is_no_float64_the_sums_are_kept_on_the_processor_to_the_last_bit(
    device_without_float64: torch.device,
) -> None:
    def figures(device: torch.device) -> list[Any]:
        metric, bias, counts = LanguageModelling().to(device), PredictionBias().to(device), TokenCounts(V).to(device)
        for logits, batch in batches():
            logits, batch = logits.to(device), {name: value.to(device) for name, value in batch.items()}
            predictions = predict(logits, batch["targets"], with_distribution=True)
            metric.update(predictions, batch)
            bias.update(predictions.guesses, batch["targets"])
            counts.update(predictions, batch["targets"].roll(1, -1))
        return [metric.compute(), bias.compute(), {name: value.tolist() for name, value in counts.compute().items()}]

    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(1).to(device_without_float64).double()
    assert figures(device_without_float64) == figures(torch.device("cpu"))


def test_a_uniform_model_pays_the_same_bits_for_each_token_of_a_real_split(
    data: TextDataModule, make_data: Callable[..., TextDataModule]
) -> None:
    metric = LanguageModelling()
    for batch in data.val_dataloader():
        add(metric, torch.zeros(*batch["targets"].shape, 400), batch)
    texts = list(data.corpus.articles("val")["text"])
    encoded = data.tokenizer.encode_batch(texts)
    tokens = sum(len(document.ids) + 1 for document in encoded)
    unknown = sum(document.unknown_bytes for document in encoded)
    size = sum(len(text.encode()) for text in texts)
    figures = metric.compute()
    assert figures["loss"].item() == pytest.approx(math.log(400), rel=1e-6)
    assert figures["bits_per_byte"].item() == pytest.approx((tokens * math.log2(400) + 8 * unknown) / size, rel=1e-6)
