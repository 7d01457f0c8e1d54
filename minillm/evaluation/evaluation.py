"""The whole evaluation: every figure of a model, and whether they can be believed."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.distributed

from minillm.data import Batch
from minillm.errors import OutsideError, SettingError
from minillm.evaluation import bias
from minillm.evaluation.article_sums import ARTICLES, ArticleSums, write_articles
from minillm.evaluation.audit import Audit
from minillm.evaluation.audit.audit import is_trustworthy, sentences
from minillm.evaluation.language_modelling import processes
from minillm.evaluation.latency import latency, memory
from minillm.evaluation.results import EVALUATION, sealed
from minillm.evaluation.schema import SCHEMA, Evaluation, LengthHistogram, Text
from minillm.evaluation.subject import Split, Subject
from minillm.evaluation.text_quality import bleu_scores, continuation_pairs, continue_greedily, diversity, sample
from minillm.evaluation.uncertainty import intervals
from minillm.files import written_whole
from minillm.generation import MAX_NEW_TOKENS, Sampling
from minillm.language_model import LanguageModel
from minillm.tokenization import UNK

LENGTH_BINS = 30
# Latency: hours; windows at once: gigabytes of logits; tokens that are counted: gigabytes of pairs.
MOST = {
    "max_articles": 10**9,
    "latency_runs": 100_000,
    "batch_size": 1024,
    "max_new_tokens": MAX_NEW_TOKENS,
    "max_tokens": 10**12,
    "baseline_tokens": 10**9,
}
BLEU = ("bleu1", "bleu2", "bleu3", "bleu4")


@dataclass(frozen=True)
class Evaluator:
    """Computes what `minillm.evaluation.schema.Evaluation` holds.

    The same model and text give the same figures on every run, but for the times and the peak memory. Of several
    processes (torch.distributed) each does its share, and all return the same.

    Args:
        audit: the checks.
        prompts: how the samples begin.
        sampling: how their tokens are chosen.
        max_new_tokens: tokens of a sample at most.
        seed: of the samples.
        max_articles: test articles continued for BLEU, the first ones: bounds the time. None: all.
        latency_runs: timed runs of each kind.
        batch_size: windows at once.
        max_tokens: tokens of each split that figures are over at most: the articles with the smallest hashes of their
            identity, see `minillm.data.subset`. Of val and test no more than the run's own ``data.max_val_tokens`` and
            ``data.max_test_tokens``, so that the figures are over what training measured. None: all.
        baseline_tokens: training tokens that the n-gram models count at most, chosen in the same way; None: all.

    Raises:
        SettingError: a value outside its range.
    """

    audit: Audit = field(default_factory=Audit)
    prompts: Sequence[str] = ("En el año 1492,", "Durante la Edad Media,")
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8, top_p=0.9))
    max_new_tokens: int = 60
    seed: int = 0
    max_articles: int | None = 256
    latency_runs: int = 100
    batch_size: int = 32
    max_tokens: int | None = 2_000_000
    baseline_tokens: int | None = 20_000_000

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(name, value, "must be at least 1")
            if value is not None and value > most:
                raise SettingError(name, value, f"must be at most {most:,}")

    def __call__(
        self,
        model: LanguageModel,
        splits: Mapping[str, Split],
        checkpoint: str | Path,
        *,
        loaders: Mapping[str, Iterable[Batch]] | None = None,
        reported: Mapping[str, float] | None = None,
        other_text: str | None = None,
        funnel: Mapping[str, int] | None = None,
        articles: dict[str, ArticleSums] | None = None,
        max_tokens: Mapping[str, int | None] | None = None,
    ) -> Evaluation:
        """Return every figure of a model.

        Args:
            model: the model.
            splits: "test", and where the text that it learned from is at hand "train" and "val".
            checkpoint: where the model comes from.
            loaders: batches as the training saw and tested them, by split.
            reported: figures that training logged, such as ``test/accuracy``; None: those in the checkpoint. Of other
                text than the run's own no figures were reported.
            other_text: where the test split comes from, when it is not the run's own.
            funnel: articles read, dropped and kept.
            articles: is given what each article of a split adds to its figures, for `write_evaluation`.
            max_tokens: tokens of each split that figures are over at most; None: as the settings say.

        Raises:
            OutsideError: a split has no article.
        """
        start = time.perf_counter()
        for name, split in splits.items():
            if not len(split.documents):
                raise OutsideError(f"the {name} split has no article to evaluate on")
        checkpoint = Path(checkpoint)
        reported = {
            name: value
            for name, value in (model.metrics if reported is None else reported).items()
            if other_text is None or not name.startswith("test/")
        }
        subject = Subject(
            model.network,
            len(model.tokenizer),
            model.max_length,
            splits,
            loaders or {},
            reported,
            self.batch_size,
            self._max_tokens(model, splits) if max_tokens is None else max_tokens,
            self.baseline_tokens,
            model.tokenizer,
            own_test=other_text is None,
        )
        measured = subject.measured
        figures = {name: split.figures for name, split in measured.items()}
        sums = {name: split.articles for name, split in measured.items()}
        for name in sums:
            within = intervals(sums[name])
            figures[name]["ci95"] = {figure: within[figure] for figure in figures[name] if figure in within}
        if articles is not None:
            articles.update(sums)
        findings = self.audit(subject)
        counts = subject.counts
        frequencies = subject.frequencies
        evaluation: Evaluation = {
            "schema": SCHEMA,
            "checkpoint": str(checkpoint),
            "run": str(checkpoint.parent.parent) if (checkpoint.parent.parent / ".hydra").is_dir() else None,
            "config": _as_json(model.config),
            "data": {
                "articles": {name: split.articles for name, split in splits.items()},
                "tokens": {name: _all_tokens_of(split) for name, split in splits.items()},
                "bytes": {name: split.bytes for name, split in splits.items()},
                "unk_rate": {name: float(frequency[UNK] / frequency.sum()) for name, frequency in frequencies.items()},
                "other_text": other_text,
                "samples": {
                    name: {"articles": len(sample.documents), "tokens": tokens_of(sample)}
                    for name, sample in subject.samples.items()
                    if len(sample.documents) < splits[name].articles
                },
            },
            "splits": figures,
            "overfitting": {
                "ratio": figures["val"]["loss"] / figures["train"]["loss"],
                "gap": figures["val"]["loss"] - figures["train"]["loss"],
            }
            if "train" in figures and "val" in figures
            else None,
            "bias": cast(
                Any,
                {
                    **bias.distances(counts),
                    **bias.most_mispredicted(counts, model.tokenizer.token),
                    "accuracy_by_frequency": bias.accuracy_by_frequency(
                        counts, frequencies.get("train", frequencies["test"])
                    ),
                },
            ),
            "text": self._text(model, subject.samples["test"]),
            "latency": latency(model.network, len(model.tokenizer), model.max_length, model.device, self.latency_runs),
            "memory": memory(model.network, model.device),
            "audit": cast(Any, findings),
            "baselines": cast(Any, subject.baselines),
            "trustworthy": is_trustworthy(findings),
            "findings": sentences(findings),
            "seconds": 0.0,
            "plots": {
                "calibration": bias.calibration_bins(counts),
                "unigram": bias.unigram_curves(counts),
                "article_lengths": _histogram(splits),
                "funnel": dict(funnel or {}),
            },
            "articles_sha256": {name: each.sha256 for name, each in sums.items()},
        }
        evaluation["seconds"] = time.perf_counter() - start
        return _shared(evaluation)

    def _max_tokens(self, model: LanguageModel, splits: Mapping[str, Split]) -> dict[str, int | None]:
        """Return how many tokens of each split are measured at most."""
        data = model.config.get("data") or {}
        bounds = {name: [self.max_tokens, data.get(f"max_{name}_tokens")] for name in splits}
        return {name: min((bound for bound in each if bound), default=None) for name, each in bounds.items()}

    def _text(self, model: LanguageModel, test: Split) -> Text:
        prompts, references = continuation_pairs(islice(test.texts, self.max_articles))
        continuations = continue_greedily(model, prompts)
        # Without an article of 48 words there is no BLEU, which is not a BLEU of 0.
        bleu = bleu_scores(continuations, references) if prompts else dict.fromkeys(BLEU)
        scores: dict[str, Any] = {**bleu, **diversity(continuations)}
        scores["articles"] = len(prompts)
        scores["samples"] = sample(model, self.prompts, self.max_new_tokens, self.sampling, self.seed)
        return cast(Text, scores)


def write_evaluation(
    evaluation: Evaluation,
    run_dir: str | Path,
    articles: Mapping[str, ArticleSums] | None = None,
    name: str | Path = EVALUATION,
) -> Path:
    """Write ``evaluation/evaluation.json`` into a run's folder, whole or not at all, and return its path.

    A last key, ``sha256``, lets `read_evaluation` notice damage. ``evaluation/articles.parquet`` goes beside it: what
    each article adds to the figures, so that runs can be compared article by article.

    Args:
        evaluation: what to write.
        run_dir: the run's folder.
        articles: what the evaluator gave; None: there will be no such file.
        name: another name of the evaluation within the folder.

    Raises:
        OutsideError: they cannot be written.
    """
    path = Path(run_dir) / name
    text = json.dumps(sealed(evaluation), ensure_ascii=False, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if articles:
            write_articles(articles, Path(run_dir) / ARTICLES)
        with written_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutsideError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def tokens_of(split: Split) -> int:
    """Return the tokens to predict: all but each document's [BOS]."""
    return int(np.asarray(split.documents.lengths, dtype=np.int64).sum()) - len(split.documents)


def _all_tokens_of(split: Split) -> int:
    """Return the tokens to predict of a whole split; of one that was encoded in part, as many as its bytes suggest."""
    return round(tokens_of(split) * split.bytes / max(1, int(split.documents.bytes.sum())))


def _as_json(setting: Any) -> Any:
    """Return settings as JSON can hold them: a setting, unlike a figure, may well be infinite."""
    if isinstance(setting, dict):
        return {name: _as_json(value) for name, value in setting.items()}
    if isinstance(setting, list):
        return [_as_json(value) for value in setting]
    return str(setting) if isinstance(setting, float) and not math.isfinite(setting) else setting


def _histogram(splits: Mapping[str, Split]) -> LengthHistogram:
    """Return articles by length in tokens, in bins that grow with the length."""
    lengths = {name: np.asarray(split.documents.lengths) - 1 for name, split in splits.items()}
    together = np.concatenate(list(lengths.values()))
    edges = np.geomspace(max(1, together.min()), together.max() + 1, LENGTH_BINS + 1)
    return {
        "edges": edges.tolist(),
        "articles": {name: np.histogram(length, edges)[0].tolist() for name, length in lengths.items()},
    }


def _shared(evaluation: Evaluation) -> Evaluation:
    """Return the first process's evaluation in all of them: times differ, and must not."""
    if processes()[1] == 1:
        return evaluation
    box = [evaluation]
    torch.distributed.broadcast_object_list(box)
    return box[0]
