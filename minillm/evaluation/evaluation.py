"""The whole evaluation: all figures of a model, and whether they can be trusted."""

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

from minillm.corpus.quality import language_of
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
# Larger values would take hours (latency_runs) or gigabytes (batch_size: logits, baseline_tokens: pairs of tokens).
MAXIMA = {
    "max_articles": 10**9,
    "latency_runs": 100_000,
    "batch_size": 1024,
    "max_new_tokens": MAX_NEW_TOKENS,
    "max_tokens": 10**12,
    "baseline_tokens": 10**9,
}
BLEU = ("bleu1", "bleu2", "bleu3", "bleu4")
SPANISH = ("En el año 1492,", "Durante la Edad Media,")
PROMPT_WORDS = 4  # of a test article, if samples start with those
LANGUAGE_ARTICLES = 50  # test articles used to detect the language


@dataclass(frozen=True)
class Evaluator:
    """Computes a `minillm.evaluation.schema.Evaluation`.

    The same model and text always give the same figures, except for times and peak memory. Several processes
    (torch.distributed) share the work, and all return the same evaluation.

    Args:
        audit: the checks.
        prompts: beginnings of the samples; None: `SPANISH` if the corpus's settings say that it is Spanish
            (``data.quality.language=es``), otherwise beginnings of two test articles.
        sampling: of the samples.
        max_new_tokens: maximum tokens of a sample.
        seed: of the samples.
        max_articles: test articles to continue for BLEU, the first ones, which bounds the time. None: all.
        latency_runs: timed runs of each kind.
        batch_size: windows per batch.
        max_tokens: tokens of each split to use, of the articles with the smallest hashes of their page ids, see
            `minillm.data.subset`. For val and test at most the run's ``data.max_val_tokens`` and
            ``data.max_test_tokens``, so that figures are comparable with those of the training. None: all.
        baseline_tokens: training tokens that the n-gram models count, chosen in the same way; None: all.

    Raises:
        SettingError: a value outside its range.
    """

    audit: Audit = field(default_factory=Audit)
    prompts: Sequence[str] | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8, top_p=0.9))
    max_new_tokens: int = 60
    seed: int = 0
    max_articles: int | None = 256
    latency_runs: int = 100
    batch_size: int = 32
    max_tokens: int | None = 2_000_000
    baseline_tokens: int | None = 20_000_000

    def __post_init__(self) -> None:
        for name, most in MAXIMA.items():
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
        """Return all figures of a model.

        Args:
            model: the model.
            splits: "test" and, if the training text is available, "train" and "val".
            checkpoint: the model's file.
            loaders: batches of training and validation, by split.
            reported: figures that training logged, such as ``test/accuracy``; None: those in the checkpoint. Test
                figures are ignored with ``other_text``.
            other_text: the origin of the test split, if it is not the run's own.
            funnel: numbers of articles read, dropped and kept.
            articles: filled with the sums per article of each split, for `write_evaluation`.
            max_tokens: maximum tokens of each split; None: from the settings.

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
                "language": _language(subject.samples["test"]),
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
            "text": self._text(model, subject.samples["test"], other_text),
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
        """Return the maximum number of tokens of each split."""
        data = model.config.get("data") or {}
        bounds = {name: [self.max_tokens, data.get(f"max_{name}_tokens")] for name in splits}
        return {name: min((bound for bound in each if bound), default=None) for name, each in bounds.items()}

    def _text(self, model: LanguageModel, test: Split, other_text: str | None) -> Text:
        prompts, references = continuation_pairs(islice(test.texts, self.max_articles))
        continuations = continue_greedily(model, prompts)
        # Without an article of 48 words BLEU is None, and not 0.
        bleu = bleu_scores(continuations, references) if prompts else dict.fromkeys(BLEU)
        scores: dict[str, Any] = {**bleu, **diversity(continuations)}
        scores["articles"] = len(prompts)
        own = self.prompts if self.prompts is not None else _prompts(model, test, other_text)
        scores["samples"] = sample(model, own, self.max_new_tokens, self.sampling, self.seed)
        return cast(Text, scores)


def write_evaluation(
    evaluation: Evaluation,
    run_dir: str | Path,
    articles: Mapping[str, ArticleSums] | None = None,
    name: str | Path = EVALUATION,
) -> Path:
    """Write ``evaluation/evaluation.json`` into a run's folder, atomically, and return its path.

    Its last key, ``sha256``, lets `read_evaluation` detect damage. ``evaluation/articles.parquet`` has the sums per
    article, with which runs can be compared article by article.

    Args:
        evaluation: the evaluation.
        run_dir: the run's folder.
        articles: the sums per article, from the evaluator; None: do not write them.
        name: another name for the evaluation within the folder.

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


def _language(test: Split) -> str | None:
    """Return the language of most of a split's articles."""
    found = language_of(islice(test.texts, LANGUAGE_ARTICLES))
    return found.code if found else None


def _prompts(model: LanguageModel, test: Split, other_text: str | None) -> list[str]:
    """Return the beginnings of the samples: `SPANISH` if the settings say Spanish, otherwise those of test articles."""
    quality = (model.config.get("data") or {}).get("quality") or {}
    if other_text is None and quality.get("language", "es") == "es":
        return list(SPANISH)
    begins = (" ".join(text.split()[:PROMPT_WORDS]) for text in islice(test.texts, LANGUAGE_ARTICLES))
    fitting = (begin for begin in begins if 0 < len(model.tokenizer.encode(begin)) < model.max_length)
    return list(islice(dict.fromkeys(fitting), len(SPANISH)))


def tokens_of(split: Split) -> int:
    """Return the number of tokens to predict: all but [BOS]."""
    return int(np.asarray(split.documents.lengths, dtype=np.int64).sum()) - len(split.documents)


def _all_tokens_of(split: Split) -> int:
    """Return the number of tokens to predict of a whole split; estimated from its bytes if it was encoded in part."""
    return round(tokens_of(split) * split.bytes / max(1, int(split.documents.bytes.sum())))


def _as_json(setting: Any) -> Any:
    """Return settings for JSON, with numbers that are not finite as text."""
    if isinstance(setting, dict):
        return {name: _as_json(value) for name, value in setting.items()}
    if isinstance(setting, list):
        return [_as_json(value) for value in setting]
    return str(setting) if isinstance(setting, float) and not math.isfinite(setting) else setting


def _histogram(splits: Mapping[str, Split]) -> LengthHistogram:
    """Return a histogram of articles by length in tokens, with logarithmic bins."""
    lengths = {name: np.asarray(split.documents.lengths) - 1 for name, split in splits.items()}
    together = np.concatenate(list(lengths.values()))
    edges = np.geomspace(max(1, together.min()), together.max() + 1, LENGTH_BINS + 1)
    return {
        "edges": edges.tolist(),
        "articles": {name: np.histogram(length, edges)[0].tolist() for name, length in lengths.items()},
    }


def _shared(evaluation: Evaluation) -> Evaluation:
    """Return the first process's evaluation in all processes, since their times differ."""
    if processes()[1] == 1:
        return evaluation
    box = [evaluation]
    torch.distributed.broadcast_object_list(box)
    return box[0]
