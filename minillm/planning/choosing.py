"""The choice: which settings learn most of a text, on this machine, in this time."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from minillm.planning.laws import Laws
from minillm.planning.machine import Machine
from minillm.planning.shapes import Form, forms

MUON, BPE = "minillm.training.Muon", "minillm.tokenization.BPETokenizer"
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.03  # of the training's time
NEVER = 1_000_000  # epochs, or validations
BYTES_PER_WEIGHT = 16  # the weight, its gradient and two averages of the optimizer
MEMORY_SHARE = 0.5  # of the available memory, for the weights; activations need the rest
WORTH_COMPILING = 1200  # seconds of training; torch.compile takes a minute or more before the first step


@dataclass(frozen=True)
class Text:
    """What is known of a corpus.

    Args:
        train_bytes: UTF-8 bytes of its training split.
        val_bytes: of the part of its validation split that validations read.
        evaluated_bytes: of all splits as far as the evaluation reads them.
    """

    train_bytes: int
    val_bytes: int
    evaluated_bytes: int


@dataclass(frozen=True)
class Expected:
    """What the laws expect of a choice.

    Args:
        weights: in matrix products, the tied head included.
        tokens_per_second: in training.
        tokens: that training predicts, over all epochs.
        epochs: passes over the text.
        bits_per_byte: of the validation split at the end.
        evaluation: seconds of the evaluation after training.
    """

    weights: int
    tokens_per_second: float
    tokens: float
    epochs: float
    bits_per_byte: float
    evaluation: float


@dataclass(frozen=True)
class Plan:
    """Settings by full name, each with its value and its reason; and what the laws expect of them."""

    expected: Expected
    settings: dict[str, tuple[Any, str]]

    def to_json(self) -> str:
        """Return the plan as text, for the processes that did not choose."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan that `to_json` wrote."""
        values = json.loads(text)
        settings = {name: (value, reason) for name, (value, reason) in values["settings"].items()}
        return cls(Expected(**values["expected"]), settings)

    def sentences(self, budget: str, is_evaluated: bool) -> list[str]:
        """Return sentences about what is expected.

        Args:
            budget: as the user wrote it.
            is_evaluated: whether an evaluation follows the training.
        """
        expected = self.expected
        test = f"about {expected.evaluation:,.0f} s of evaluation (evaluation=none: a test alone)"
        training = f"{budget} of training"
        if self.settings["trainer.max_epochs"][0] > 0:
            seconds = expected.tokens / expected.tokens_per_second
            training = f"about {seconds:,.0f} s of training: this text is too small for {budget} on this machine"
        return [
            f"expected: {expected.tokens:,.0f} tokens at {expected.tokens_per_second:,.0f} a second, the text "
            f"{expected.epochs:.1f} times, {expected.bits_per_byte:.2f} bits per byte in validation",
            f"time: {training}, then {test if is_evaluated else 'a test'}",
        ]


@dataclass(frozen=True)
class _Candidate:
    form: Form
    vocab_size: int
    max_length: int
    expected: Expected


def choose(machine: Machine, text: Text, seconds: float, laws: Laws, given: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan with the fewest expected bits per byte.

    For each form of network, from narrow to wide, the laws give a vocabulary; the machine's speed gives the tokens that
    fit the time, and the text's size the number of passes; from these follow the expected bits per byte. The best form
    decides all other settings.

    Args:
        machine: its speed and memory.
        text: its size.
        seconds: of training.
        laws: the fitted ones.
        given: settings that the user has decided, by full name; all others are chosen around them.
    """
    given = given or {}
    candidates = [_candidate(form, machine, text, seconds, laws, given) for form in forms(given)]
    most = min(machine.memory * MEMORY_SHARE / BYTES_PER_WEIGHT, laws.most_weights(text.train_bytes))
    fitting = [each for each in candidates if each.expected.weights < most]
    best = min(fitting or candidates[:1], key=lambda candidate: candidate.expected.bits_per_byte)
    return Plan(best.expected, _settings(best, machine, text, seconds, laws, given))


def _candidate(
    form: Form, machine: Machine, text: Text, seconds: float, laws: Laws, given: Mapping[str, Any]
) -> _Candidate:
    vocab_size = given.get("data.vocab_size", laws.vocab_size(form.weights, form.embedding_dim, text.train_bytes))
    max_length = given.get("data.max_length", laws.max_length(form.embedding_dim))
    weights = form.weights + vocab_size * form.embedding_dim
    flops = 6 * weights + 12 * form.num_layers * form.embedding_dim * max_length
    tokens_per_second = machine.flops_per_second(form.embedding_dim) * laws.table["time"]["share"] / flops
    bytes_per_token = laws.bytes_per_token(vocab_size)
    seen = min(tokens_per_second * seconds * bytes_per_token, laws.most_passes * text.train_bytes)
    tokens = seen / bytes_per_token
    bits = laws.bits_per_byte(weights, seen, text.train_bytes)
    evaluated = text.evaluated_bytes / bytes_per_token / tokens_per_second
    evaluation = laws.table["time"]["evaluation"] + laws.table["time"]["evaluated"] * evaluated
    expected = Expected(weights, tokens_per_second, tokens, seen / text.train_bytes, bits, evaluation)
    return _Candidate(form, vocab_size, max_length, expected)


def _settings(
    best: _Candidate, machine: Machine, text: Text, seconds: float, laws: Laws, given: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    form, expected = best.form, best.expected
    width, epochs = form.embedding_dim, expected.epochs
    rows = given.get("data.batch_size", laws.batch_size(expected.tokens, best.max_length))
    step = rows * best.max_length
    against = f"for {epochs:.1f} passes over the text"
    dropout, bpe_dropout, weight_decay = (
        laws.against_repeats(name, epochs) for name in ("dropout", "bpe_dropout", "weight_decay")
    )
    schedule = laws.table["schedule"]
    settings: dict[str, tuple[Any, str]] = {"model.embedding_dim": (width, "learns most in the time")}
    settings["model.num_layers"] = form.num_layers, "deeper as it is wider"
    settings["model.num_heads"] = form.num_heads, f"{width // form.num_heads} channels each"
    settings["model.num_kv_heads"] = form.num_kv_heads, "shared by the query heads"
    settings["model.tie_head"] = True, "learns the vocabulary once"
    settings["model.dropout"] = {"embedding": dropout, "residual": dropout}, against
    if given["tokenizer._target_"] == BPE:
        settings["data.vocab_size"] = best.vocab_size, f"for {width} channels, {text.train_bytes / 1e6:.2f} MB"
        settings["data.augmentation.bpe_dropout"] = bpe_dropout, against
    settings["data.max_length"] = best.max_length, "longer as it is wider"
    settings["data.batch_size"] = rows, f"{step:,} tokens a step"
    settings["data.batching"] = "packed", "nothing is padded"
    if given["optimizer._target_"] == MUON:
        settings["optimizer.lr"] = laws.learning_rate("muon", step), "for the batch, at any width"
        settings["optimizer.adamw_lr"] = laws.learning_rate("adamw", step), "for the batch, at any width"
        settings["optimizer.weight_decay"] = weight_decay, against
    else:
        settings["optimizer.lr"] = laws.adamw_alone(width), f"for {width} channels"
    settings["scheduler.warmup"] = schedule["warmup"], "share of the time"
    settings["scheduler.after"] = "linear", "to 0 as the time ends"
    settings["scheduler.decay"] = schedule["decay"], "share of the time"
    settings["training.label_smoothing"] = 0.0, "words have no wrong labels"
    settings["trainer.precision"] = machine.precision, f"the faster one here ({machine.device})"
    settings["trainer.max_epochs"] = -1, f"the time ends it, after {epochs:.1f}"
    if epochs >= laws.most_passes:
        settings["trainer.max_epochs"] = laws.most_passes, "more would only be learned by heart"
    settings["callbacks.early_stopping.patience"] = NEVER, "never: the time ends it"
    validation = laws.table["time"]["validation"]
    validation += text.val_bytes / laws.bytes_per_token(best.vocab_size) / expected.tokens_per_second / 2
    validations = min(MOST_VALIDATIONS, int(VALIDATION_SHARE * seconds / validation))
    every, often = NEVER, "one at the end alone"
    if validations > 1:
        every = max(1, math.ceil(epochs / validations))
        often = f"at most {VALIDATION_SHARE:.0%} of the time"
    settings["trainer.check_val_every_n_epoch"] = (every, often)
    if machine.device == "cuda" and seconds < WORTH_COMPILING:
        settings["training.compile"] = ("off", "it takes a minute to begin")
    return settings
