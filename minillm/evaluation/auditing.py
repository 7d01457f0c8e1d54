"""The audit of any model on any text, for `scripts/audit.py` and for Python."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minillm.errors import DivergedError, SettingError
from minillm.evaluation.audit.networks import LOGITS_AT_ONCE, audited
from minillm.evaluation.audit.texts import Given, TextFiles, split_of
from minillm.evaluation.evaluation import Evaluator, write_evaluation
from minillm.evaluation.report import write_report
from minillm.evaluation.schema import Evaluation

JSON, PAGE = "audit.json", "audit.html"

CLAIMS = ("perplexity", "loss", "accuracy")
"""Figures of a split that can be claimed."""

EVALUATOR = Evaluator(max_articles=32, latency_runs=10, max_tokens=200_000, baseline_tokens=2_000_000)
"""The settings of `conf/audit.yaml`."""


def audit(
    model: Any,
    test: Given,
    train: Given | None = None,
    val: Given | None = None,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    reported: Mapping[str, float] | None = None,
    evaluator: Evaluator = EVALUATOR,
    text_field: str = "text",
    on_error: str = "refuse",
    output_dir: str | Path | None = None,
) -> Evaluation:
    """Return all figures of a model on texts, and whether they can be trusted.

    Args:
        model: a model from `minillm.load`; a causal language model of transformers with its ``tokenizer``; a network
            that maps ids to logits, with a tokenizer of this project; an object with ``network``, ``encode`` and
            ``decode``, see `minillm.evaluation.audit.networks.PythonNetwork`; or the path of a checkpoint or of a
            transformers model.
        test: the test texts, or a file, folder or glob.
        train: the training texts; None: checks that need them give no verdict.
        val: the validation texts.
        tokenizer: see ``model``.
        max_length: tokens of context; None: the model's own.
        reported: claimed figures, such as ``{"test/accuracy": 0.97}``, of a split that is given. That split is then
            evaluated in full.
        evaluator: what to compute, with thresholds.
        text_field: field of a .jsonl or .parquet record with the text.
        on_error: what to do with an unusable record: "refuse" or "skip".
        output_dir: folder for audit.json and audit.html; None: nothing is written.

    Returns:
        The content of audit.json, see `minillm.evaluation.schema.Evaluation`: ``trustworthy``, ``findings``,
        ``audit``, ...

    Raises:
        SettingError: the model, a text or a claim cannot be used.
        OutsideError: an external failure, such as a full disk.
        DivergedError: the model's loss is not finite.
    """
    given = {"train": train, "val": val, "test": test}
    reported = _claims(reported or {}, [name for name, texts in given.items() if texts is not None])
    subject = audited(model, tokenizer, max_length)
    claimed = {claim.partition("/")[0] for claim in reported}
    splits, max_tokens = {}, {}
    for name, texts in given.items():
        if texts is None:
            continue
        files = TextFiles(name, str(texts), text_field, on_error) if isinstance(texts, str | Path) else list(texts)
        max_tokens[name] = None if name in claimed else evaluator.max_tokens
        encoded = [max_tokens[name], *([evaluator.baseline_tokens] if name == "train" else [])]
        splits[name] = split_of(files, name, subject, None if None in encoded else max(filter(None, encoded)))
    at_once = max(1, min(evaluator.batch_size, LOGITS_AT_ONCE // (subject.max_length * len(subject.tokenizer))))
    evaluation = replace(evaluator, batch_size=at_once)(
        subject, splits, subject.name, reported=reported, max_tokens=max_tokens
    )
    for split, figures in evaluation["splits"].items():
        if not math.isfinite(figures["perplexity"]):
            raise DivergedError(f"the loss on {split} is {figures['loss']:.3g} nats per token: the model has diverged")
    if output_dir is not None:
        write_evaluation(evaluation, output_dir, name=JSON)
        write_report(evaluation, Path(output_dir), PAGE)
    return evaluation


def _claims(reported: Mapping[str, float], splits: Sequence[str]) -> dict[str, float]:
    """Return the claims by name, with each loss as a perplexity.

    Raises:
        SettingError: an unknown figure, or an impossible value.
    """
    claims: dict[str, float] = {}
    for name, value in reported.items():
        split, _, figure = name.partition("/")
        if split not in splits or figure not in CLAIMS:
            known = ", ".join(f"{split}/{figure}" for split in splits for figure in CLAIMS)
            raise SettingError(f"reported.{name}", value, f"is not a figure of this audit; there are {known}")
        if not math.isfinite(value) or value < 0 or (figure == "accuracy" and value > 1):
            raise SettingError(f"reported.{name}", value, "is impossible: accuracy is from 0 to 1, others at least 0")
        if figure == "loss":
            claims.setdefault(f"{split}/perplexity", math.exp(min(value, 700.0)))
        else:
            claims[name] = float(value)
    return claims
