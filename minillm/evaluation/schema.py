"""The content of `evaluation.json`, schema 1.

Numbers are floats and ints; a figure that does not exist is None (null). Logarithms are natural.
"""

from typing import Any, Literal, NotRequired, TypedDict

SCHEMA = 1

SplitName = Literal["train", "val", "test"]


class SampleSize(TypedDict):
    """Size of a sample: the articles with the smallest hashes of their page ids, see `minillm.data.subset`."""

    articles: int
    tokens: int


class DataSize(TypedDict):
    """The size of each split, and the origin of the test split."""

    articles: dict[str, int]
    """By split, like the next three."""
    tokens: dict[str, int]
    """Targets: every token but [BOS]."""
    bytes: dict[str, int]
    """UTF-8 bytes of the cleaned text."""
    unk_rate: dict[str, float]
    """Share of [UNK] among the targets."""
    samples: dict[str, SampleSize]
    """The samples of splits whose figures are not over the whole split."""
    other_text: str | None
    """The origin of the test split; None: it is the run's own."""
    language: str | None
    """The language of most test articles, such as "es"; None: they are too short to detect it."""


class SplitFigures(TypedDict):
    """Language modelling on one split."""

    loss: float
    perplexity: float
    bits_per_byte: float
    """The main figure: it includes the cost of unknown words, and is comparable across vocabularies."""
    accuracy: float
    tokens: int
    unk_rate: float
    """Share of [UNK] among the targets. Perplexity and accuracy count all unknown words as one word, which is easy to
    predict."""
    accuracy_without_unknown: float | None
    """None: all targets are [UNK]."""
    ci95: NotRequired[dict[str, list[float]]]
    """95 % intervals [low, high] by figure, see `minillm.evaluation.uncertainty`; not in older files."""


class Overfitting(TypedDict):
    """Validation against training."""

    ratio: float
    gap: float


class TokenShare(TypedDict):
    """A token that the model predicts more, or less, often than it occurs."""

    token: str
    predicted: float
    """Its mean predicted probability."""
    true: float
    """Its share of the targets."""


class BucketAccuracy(TypedDict):
    """Accuracy on the targets of one range of frequency ranks."""

    bucket: str
    """"1-10", "11-100", ...: ranks by frequency in the training text; [UNK] has its own bucket, "[UNK]"."""
    tokens: int
    accuracy: float | None
    """None: the split has no such target."""


class Bias(TypedDict):
    """Prediction bias on the test split."""

    prediction_bias: float
    absolute_bias: float
    bias_variance: float
    kl_divergence: float
    """Of the mean predicted distribution from the targets' distribution: sum of true x ln(true / predicted), nats."""
    total_variation: float
    calibration_error: float
    overpredicted: list[TokenShare]
    underpredicted: list[TokenShare]
    accuracy_by_frequency: list[BucketAccuracy]


class Sample(TypedDict):
    """A prompt and its continuation by the model."""

    prompt: str
    generated: str
    """The continuation, without the prompt."""


class Text(TypedDict):
    """Generated text."""

    bleu1: float | None
    bleu2: float | None
    bleu3: float | None
    bleu4: float | None
    distinct1: float
    distinct2: float
    repetition4: float
    articles: int
    """Number of test articles that were continued; BLEU is None if it is 0."""
    samples: list[Sample]


class MeanStd(TypedDict):
    """Milliseconds."""

    mean: float
    std: float


class Latency(TypedDict):
    """Latency at batch size 1."""

    forward_ms: MeanStd
    """A forward pass over max_length tokens."""
    token_ms: MeanStd | None
    """Decoding a token with the cache; None: the network has no cache."""
    device: str
    runs: int


class Memory(TypedDict):
    """Size of the network and of the process."""

    parameters: int
    parameter_mib: float
    peak_mib: float
    """Peak memory of the GPU, or peak resident memory of the process."""


Verdict = Literal["fault", "weak", "fine", "none"]
"""The result of a check. ``fault``: the figures cannot be trusted. ``weak``: they are correct, and show that the model
learned little. ``fine``: nothing is wrong. ``none``: not checked, or (plausibility) another check explains it; the
finding says which."""


class Finding(TypedDict):
    """The result of a check, which adds its own figures under further keys."""

    verdict: Verdict
    finding: str
    """One sentence with the check's figure and threshold."""
    threshold: float
    """The value that the check compares with."""


class Audit(TypedDict):
    """The checks. Older files have only some of them."""

    determinism: Finding
    causality: Finding
    alignment: Finding
    contamination: Finding
    memorization: Finding
    splits: Finding
    tokenizer: Finding
    inflation: Finding
    position: Finding
    selection: Finding
    plausibility: Finding


class Baseline(TypedDict):
    """An n-gram model on one split."""

    loss: float
    perplexity: float
    tokens: int


class CalibrationBin(TypedDict):
    """Predictions with a confidence (highest probability) in one of 15 bins of equal width."""

    confidence: float | None
    accuracy: float | None
    tokens: int


class UnigramCurves(TypedDict):
    """True and predicted (mean probability) shares of the targets, with tokens sorted by their true share."""

    rank: list[int]
    true: list[float]
    predicted: list[float]


class LengthHistogram(TypedDict):
    """Articles by length in tokens; bin i is from edges[i] to edges[i + 1]."""

    edges: list[float]
    articles: dict[str, list[int]]
    """By split."""


class Plots(TypedDict):
    """Data for the report's plots; those of training curves are in `<run>/metrics.csv`."""

    calibration: list[CalibrationBin]
    unigram: UnigramCurves
    article_lengths: LengthHistogram
    funnel: dict[str, int]
    """Articles read, dropped by reason, kept, in this order; empty: unknown."""


class Scored(TypedDict):
    """Figures on one test split of the model that a training started from, and of the trained one."""

    before: dict[str, float]
    """bits_per_byte and perplexity."""
    after: dict[str, float]
    tokens: int


class BeforeAfter(TypedDict):
    """The effect of a training from existing weights."""

    init_from: str
    new: Scored | None
    """On the run's own test split."""
    old: Scored | None
    """On the test split of the model that it started from; None: that text is not available."""


class Evaluation(TypedDict):
    """The whole file."""

    schema: int
    checkpoint: str
    """Path of the checkpoint."""
    run: str | None
    """Folder of the training run, with metrics.csv and .hydra/; None: the checkpoint is not in a run's folder."""
    config: dict[str, Any]
    """The training run's whole configuration."""
    data: DataSize
    splits: dict[str, SplitFigures]
    """train, val, test; only test if the training text is not available."""
    overfitting: Overfitting | None
    bias: Bias
    text: Text
    latency: Latency
    memory: Memory
    audit: Audit
    baselines: dict[str, dict[str, Baseline]]
    """By split (val, test), then "unigram" and "bigram"; empty if the training text is not available."""
    trustworthy: bool
    """No check found a fault."""
    findings: list[str]
    """The sentences of all checks: faults first, then weak ones."""
    seconds: float
    """Duration of the evaluation."""
    plots: Plots
    articles_sha256: dict[str, str]
    """By split, of the sums in ``articles.parquet``, see `minillm.evaluation.article_sums`."""
    init_from: NotRequired[BeforeAfter]
    """Only of a run that started from existing weights (``init_from``)."""
