"""The laws that the choice goes by: a table of numbers, `laws.yaml`, and the formulas that they stand in."""

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
    """What `laws.yaml` says.

    Args:
        table: its numbers; the file tells what each is.
    """

    table: Mapping[str, Any]

    def bits_per_byte(self, weights: float, seen: float, unique: float) -> float:
        """Return the expected bits per byte of the validation split.

        Chinchilla's form (Hoffmann et al. 2022): what cannot be learned, and what too few weights and too little data
        cost. Data that is seen again counts for less, and so do more weights than the data have use for (Muennighoff et
        al. 2023), see `_saturated`.

        Args:
            weights: in matrices that tokens are multiplied with.
            seen: bytes, over all epochs.
            unique: bytes of the text.
        """
        law = self.table["loss"]
        data = _saturated(seen, unique, law["repeats"])
        useful = _saturated(weights, law["weights_per_byte"] * unique, law["excess"])
        few_weights = law["weights_scale"] * (useful / 1e6) ** -law["weights_exponent"]
        little_data = law["data_scale"] * (data / 1e6) ** -law["data_exponent"]
        return float(law["irreducible"] + few_weights + little_data)

    def vocab_size(self, weights: float, width: int, train_bytes: float) -> int:
        """Return the entries of the vocabulary, in hundreds.

        Args:
            weights: in the blocks; those of the vocabulary grow with them to a power (Tao et al. 2024).
            width: of the network, which is the weights that an entry has.
            train_bytes: of the training split; each entry has to be seen often enough to be learned.
        """
        law = self.table["vocabulary"]
        entries = law["vocabulary_scale"] * 1e6 * (weights / 1e6) ** law["exponent"] / width
        entries = min(entries, train_bytes / law["bytes_per_entry"])
        return min(max(100 * round(entries / 100), law["smallest"]), law["largest"])

    def bytes_per_token(self, vocab_size: float) -> float:
        """Return how many bytes a token of a BPE vocabulary stands for."""
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
            tokens: that the training will have predicted.
            max_length: tokens of a row.
        """
        law = self.table["batch"]
        wanted = law["tokens"] * (tokens / 1e6) ** law["exponent"]
        return max(1, round(min(max(wanted, law["smallest"]), law["largest"]) / max_length))

    def against_repeats(self, name: str, epochs: float) -> float:
        """Return a setting that keeps a network from learning the text by heart: it grows with the log of the epochs.

        Args:
            name: ``dropout``, ``bpe_dropout`` or ``weight_decay``.
            epochs: how often the text is gone through.
        """
        law = self.table[name]
        value = law["once"] + law["slope"] * math.log(max(1.0, epochs))
        return round(min(max(value, law["smallest"]), law["largest"]), 3)

    def learning_rate(self, name: str, tokens_per_step: float) -> float:
        """Return a learning rate at its peak.

        Args:
            name: ``muon`` of the matrices, or ``adamw`` of all else beside it.
            tokens_per_step: of a batch.
        """
        law = self.table["learning_rate"]
        return _two_digits(law[name] * min(1.0, tokens_per_step / law["tokens"]) ** law["exponent"])

    def adamw_alone(self, width: int) -> float:
        """Return the learning rate at its peak of a training that AdamW does alone (``optimizer=adamw``)."""
        return _two_digits(self.table["learning_rate"]["adamw_alone"] * 256 / width)


def _saturated(amount: float, useful: float, most: float) -> float:
    """Return what an amount counts as of which only so much is useful: of R times more M (1 - exp(-R / M)) times."""
    more = max(0.0, amount / useful - 1)
    return min(amount, useful) * (1 - most * math.expm1(-more / most))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@cache
def laws() -> Laws:
    """Return the laws of `laws.yaml`."""
    return Laws(yaml.safe_load(FILE.read_text(encoding="utf-8")))
