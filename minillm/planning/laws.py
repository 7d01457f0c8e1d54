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
        cost. Data that is seen again counts for less (Muennighoff et al. 2023): U bytes that are gone through 1 + R
        times count as U (1 + R* (1 - exp(-R / R*))).

        Args:
            weights: in matrices that tokens are multiplied with.
            seen: bytes, over all epochs.
            unique: bytes of the text.
        """
        law = self.table["loss"]
        again, most = max(0.0, seen / unique - 1), law["repeats"]
        data = min(seen, unique) * (1 - most * math.expm1(-again / most))
        few_weights = law["weights"]["scale"] * (weights / 1e6) ** -law["weights"]["exponent"]
        little_data = law["data"]["scale"] * (data / 1e6) ** -law["data"]["exponent"]
        return float(law["irreducible"] + few_weights + little_data)

    def vocab_size(self, weights: float, train_bytes: float) -> int:
        """Return the entries of the vocabulary, in hundreds.

        Args:
            weights: in the blocks; the entries grow with them to a power (Tao et al. 2024).
            train_bytes: of the training split; each entry has to be seen often enough to be learned.
        """
        law = self.table["vocabulary"]
        entries = min(law["scale"] * (weights / 1e6) ** law["exponent"], train_bytes / law["bytes_per_entry"])
        return min(max(100 * round(entries / 100), law["smallest"]), law["largest"])

    def bytes_per_token(self, vocab_size: float) -> float:
        """Return how many bytes a token of a BPE vocabulary stands for."""
        law = self.table["compression"]
        return float(law["constant"] + law["slope"] * math.log(vocab_size))

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

    def lr(self, tokens_per_step: float) -> float:
        """Return Muon's learning rate at its peak."""
        law = self.table["learning_rate"]
        return _two_digits(law["muon"] * (tokens_per_step / law["tokens"]) ** law["batch_exponent"])

    def adamw_lr(self, width: int, tokens_per_step: float) -> float:
        """Return AdamW's learning rate at its peak, of the embedding and the norms."""
        law = self.table["learning_rate"]
        for_batch = (tokens_per_step / law["tokens"]) ** law["batch_exponent"]
        return _two_digits(law["adamw"] * for_batch * (width / law["width"]) ** law["width_exponent"])

    def adamw_alone_lr(self, width: int) -> float:
        """Return the learning rate at its peak of a training that AdamW does alone (``optimizer=adamw``)."""
        law = self.table["learning_rate"]
        return _two_digits(law["adamw_alone"] / (width / law["width"]))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@cache
def laws() -> Laws:
    """Return the laws of `laws.yaml`."""
    return Laws(yaml.safe_load(FILE.read_text(encoding="utf-8")))
