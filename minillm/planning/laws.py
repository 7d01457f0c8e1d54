"""The laws behind the choice: the formulas, with their numbers from `laws.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("laws.yaml")


@dataclass(frozen=True)
class Laws:
    """The laws with the numbers of `laws.yaml`.

    Args:
        table: the numbers; the file says what each is.
    """

    table: Mapping[str, Any]

    def bits_per_byte(self, weights: float, seen: float, unique: float) -> float:
        """Return the expected bits per byte of the validation split.

        Chinchilla's form (Hoffmann et al. 2022): a part that no model can learn, a cost of few weights, a cost of
        little data. Repeated data counts for less than new data (Muennighoff et al. 2023): R repetitions of U bytes
        count as U R* (1 - exp(-R / R*)).

        Args:
            weights: in matrix products, the head included.
            seen: bytes, over all epochs.
            unique: bytes of the text.
        """
        law = self.table["loss"]
        repeats = max(0.0, seen / unique - 1)
        data = min(seen, unique) * (1 - law["repeats"] * math.expm1(-repeats / law["repeats"]))
        few_weights = law["weights_scale"] * (weights / 1e6) ** -law["weights_exponent"]
        little_data = law["data_scale"] * (data / 1e6) ** -law["data_exponent"]
        return float(law["irreducible"] + few_weights + little_data)

    @property
    def most_passes(self) -> int:
        """The most passes over a text; further ones only learn it by heart."""
        return int(self.table["most"]["passes"])

    def most_weights(self, train_bytes: float) -> float:
        """Return the most weights for a text; larger networks were not tried on so little text."""
        return float(self.table["most"]["weights_per_byte"] * train_bytes)

    def vocab_size(self, weights: float, width: int, train_bytes: float) -> int:
        """Return the entries of the vocabulary, in hundreds.

        Args:
            weights: in the blocks; the vocabulary's weights grow as a power of them (Tao et al. 2024).
            width: of the network: the weights per entry.
            train_bytes: of the training split, in which each entry has to occur often enough to be learned.
        """
        law = self.table["vocabulary"]
        entries = law["vocabulary_scale"] * 1e6 * (weights / 1e6) ** law["exponent"] / width
        entries = min(entries, train_bytes / law["bytes_per_entry"])
        return min(max(100 * round(entries / 100), law["smallest"]), law["largest"])

    def bytes_per_token(self, vocab_size: float) -> float:
        """Return the bytes of text per token of a BPE vocabulary."""
        law = self.table["compression"]
        return float(law["compression_constant"] + law["compression_slope"] * math.log(vocab_size))

    def max_length(self, width: int) -> int:
        """Return the context in tokens, a power of two."""
        law = self.table["context"]
        tokens = law["tokens"] * (width / law["width"]) ** law["exponent"]
        return min(max(2 ** round(math.log2(tokens)), law["smallest"]), law["largest"])

    def batch_size(self, tokens: float, max_length: int) -> int:
        """Return the rows of a batch.

        Args:
            tokens: of the whole training, over all epochs.
            max_length: tokens per row.
        """
        law = self.table["batch"]
        wanted = law["tokens"] * (tokens / 1e6) ** law["exponent"]
        return max(1, round(min(max(wanted, law["smallest"]), law["largest"]) / max_length))

    def against_repeats(self, name: str, epochs: float) -> float:
        """Return a setting against overfitting: it grows with the logarithm of the epochs.

        Args:
            name: ``dropout``, ``bpe_dropout`` or ``weight_decay``.
            epochs: passes over the text.
        """
        law = self.table[name]
        value = law["once"] + law["slope"] * math.log(max(1.0, epochs))
        return round(min(max(value, law["smallest"]), law["largest"]), 3)

    def learning_rate(self, name: str, tokens_per_step: float) -> float:
        """Return a peak learning rate.

        Args:
            name: ``muon`` for the blocks' matrices, or ``adamw`` for all other weights.
            tokens_per_step: tokens per batch.
        """
        law = self.table["learning_rate"]
        return _two_digits(law[name] * min(1.0, tokens_per_step / law["tokens"]) ** law["exponent"])

    def adamw_alone(self, width: int) -> float:
        """Return the peak learning rate where AdamW trains all weights (``optimizer=adamw``)."""
        return _two_digits(self.table["learning_rate"]["adamw_alone"] * 256 / width)


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@cache
def laws() -> Laws:
    """Return the laws of `laws.yaml`."""
    return Laws(yaml.safe_load(FILE.read_text(encoding="utf-8")))
