"""What `evaluation.json` holds: schema 1.

All numbers are plain floats and ints; a figure that does not exist is None (null). Logarithms are natural.
"""

from typing import Any, Literal, NotRequired, TypedDict

SCHEMA = 1

SplitName = Literal["train", "val", "test"]


class SampleSize(TypedDict):
    """The articles with the smallest hashes of their identity, see `minillm.data.subset`."""

    articles: int
    tokens: int


class DataSize(TypedDict):
    """How much text each split has; and whose text it is."""

    articles: dict[str, int]
    """By split, as are the next three."""
    tokens: dict[str, int]
    """Targets: every token but [BOS]."""
    bytes: dict[str, int]
    """UTF-8 bytes of the cleaned text."""
    unk_rate: dict[str, float]
    """Share of [UNK] among the targets."""
    samples: dict[str, SampleSize]
    """What the figures of a split are over, by split, where that is not the whole of it."""
    other_text: str | None
    """Where the test split came from, when it is other text than the run's own; None: the run's own test split."""
    language: str | None
    """That of most test articles, such as "es"; None where they are too short to tell."""


class SplitFigures(TypedDict):
    """Language modelling on one split."""

    loss: float
    perplexity: float
    bits_per_byte: float
    """Leads: it charges each [UNK] for the word that it hides, and compares across vocabularies."""
    accuracy: float
    tokens: int
    unk_rate: float
    """Share of [UNK] among the targets: words that are not in the vocabulary. Perplexity and accuracy count them as one
    word, that is easily guessed."""
    accuracy_without_unknown: float | None
    """None where all targets are [UNK]."""
    ci95: NotRequired[dict[str, list[float]]]
    """[low, high] of each figure that has a 95 % interval, see `minillm.evaluation.uncertainty`; not in older files."""


class Overfitting(TypedDict):
    """Validation against training."""

    ratio: float
    gap: float


class TokenShare(TypedDict):
    """A token that the model expects more, or less, often than it comes."""

    token: str
    predicted: float
    """Its mean predicted probability."""
    true: float
    """Its share of the targets."""


class BucketAccuracy(TypedDict):
    """Accuracy on the targets of one range of frequency ranks."""

    bucket: str
    """"1-10", "11-100", ...: ranks by frequency in the training text, [UNK] apart in a bucket of its own: "[UNK]"."""
    tokens: int
    accuracy: float | None
    """None where the split has no such target."""


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
    """A prompt and what the model puts behind it."""

    prompt: str
    generated: str
    """The continuation alone, without the prompt."""


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
    """Test articles that were continued; of none there is no BLEU."""
    samples: list[Sample]


class MeanStd(TypedDict):
    """Milliseconds."""

    mean: float
    std: float


class Latency(TypedDict):
    """Batch 1."""

    forward_ms: MeanStd
    """One forward over max_length tokens."""
    token_ms: MeanStd | None
    """One decoded token with cache; None: the network has no cache."""
    device: str
    runs: int


class Memory(TypedDict):
    """Size of the network and of the process."""

    parameters: int
    parameter_mib: float
    peak_mib: float
    """Peak memory of the GPU, or peak resident memory of the process."""


Verdict = Literal["fault", "weak", "fine", "none"]
"""What a check found. ``fault``: the figures cannot be believed. ``weak``: they are right, and say that little was
learned. ``fine``: nothing is wrong. ``none``: it could not be checked, or (plausibility) another check already explains
it; the finding says which."""


class Finding(TypedDict):
    """The outcome of one check; each check adds its own figures under further keys."""

    verdict: Verdict
    finding: str
    """One plain sentence with its figure."""
    threshold: float
    """What the check compares with; named in the finding."""


class Audit(TypedDict):
    """The checks. Files of older versions have but some of them."""

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
    """Predictions whose highest probability lies in one of 15 bins of equal width."""

    confidence: float | None
    accuracy: float | None
    tokens: int


class UnigramCurves(TypedDict):
    """Shares of the targets, true and predicted (mean probability), at tokens ordered by their true share."""

    rank: list[int]
    true: list[float]
    predicted: list[float]


class LengthHistogram(TypedDict):
    """Articles by length in tokens; bin i runs from edges[i] to edges[i + 1]."""

    edges: list[float]
    articles: dict[str, list[int]]
    """By split."""


class Plots(TypedDict):
    """What the report draws and the figures above do not have. Training curves: `<run>/metrics.csv`."""

    calibration: list[CalibrationBin]
    unigram: UnigramCurves
    article_lengths: LengthHistogram
    funnel: dict[str, int]
    """Articles read, dropped by reason, kept; in this order; empty where it is not known."""


class Scored(TypedDict):
    """One test split by the model that a training started from, and by the trained one."""

    before: dict[str, float]
    """bits_per_byte and perplexity."""
    after: dict[str, float]
    tokens: int


class BeforeAfter(TypedDict):
    """What a training that started from given weights has changed."""

    init_from: str
    new: Scored | None
    """On the run's own test split."""
    old: Scored | None
    """On the test split of the model that it started from; None: its text is not at hand."""


class Evaluation(TypedDict):
    """The whole file."""

    schema: int
    checkpoint: str
    """Path of the checkpoint."""
    run: str | None
    """Folder of the training run that it belongs to, with metrics.csv and .hydra/; None: it lies in no run."""
    config: dict[str, Any]
    """The training run's whole configuration."""
    data: DataSize
    splits: dict[str, SplitFigures]
    """train, val, test; test alone where the training text is not at hand."""
    overfitting: Overfitting | None
    bias: Bias
    text: Text
    latency: Latency
    memory: Memory
    audit: Audit
    baselines: dict[str, dict[str, Baseline]]
    """By split (val, test), then "unigram" and "bigram"; empty where the training text is not at hand."""
    trustworthy: bool
    """No check found a fault."""
    findings: list[str]
    """The sentences of all checks, faults first, then what is weak."""
    seconds: float
    """What the evaluation took."""
    plots: Plots
    articles_sha256: dict[str, str]
    """By split, of what ``articles.parquet`` says of its articles, see `minillm.evaluation.article_sums`."""
    init_from: NotRequired[BeforeAfter]
    """Of a run that started from given weights (``init_from``)."""
