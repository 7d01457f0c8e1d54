"""What `benchmark.json` holds: schema 1.

All numbers are plain floats and ints. A megabyte (MB) is 10^6 bytes of UTF-8 text, a MiB 2^20 bytes of memory. A
contestant that could not be measured has a reason in the place of its figures.
"""

from typing import Any, TypedDict

SCHEMA = 1


class Spread(TypedDict):
    """One figure over the rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    values: list[float]
    """One a round, in order."""


class Skipped(TypedDict):
    """A contestant that could not be measured."""

    skipped: str
    """Why, in one line."""


class Peak(TypedDict):
    """The speed at which the machine multiplies square matrices, the best of all tries."""

    size: int
    """Rows of each of the two matrices."""
    flops: float
    """Floating-point operations a second: 2 size^3 each product."""


class Machine(TypedDict):
    """Where it ran."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That PyTorch uses on the processor."""
    memory_gib: float
    system: str
    python: str
    libraries: dict[str, str]
    """Versions; only of those that are installed."""
    capabilities: list[str]
    """Of the processor: vector and matrix instructions that PyTorch sees."""
    device: str
    """What the networks run on: cpu, or the GPU's name."""
    bfloat16: bool
    """The device multiplies bfloat16 in hardware."""
    matmul: dict[str, Peak]
    """By dtype: float32, bfloat16."""


class Memory(TypedDict):
    """Peak memory of a process, or on a GPU of its tensors, in MiB."""

    peak: float
    """From the start of the process on; on a GPU the most that tensors took."""
    imports: float
    """The process's memory once all was imported, before there was a network; on a GPU 0."""
    training: float
    """The difference: what the work took."""


class Trained(TypedDict):
    """One contestant's training."""

    precision: str
    dropout: float
    parameters: int
    flops_per_token: float
    """See `minillm.arithmetic`."""
    step_ms: Spread
    tokens_per_second: Spread
    """Targets trained on."""
    mfu: Spread
    """Share of the measured matrix-product peak of its precision."""
    memory: Memory


class Training(TypedDict):
    """Training at one size: everybody on the same batches."""

    sizes: dict[str, float]
    batch_size: int
    steps: int
    """Steps a round."""
    contestants: dict[str, Trained | Skipped]
    overhead: Spread | None
    """Of Trainer, callbacks and logging: how much longer a step is than in the bare loop, as a share of the step."""
    speedup: dict[str, Spread]
    """The project's tokens/s over each peer's, round by round."""
    memory_ratio: dict[str, dict[str, float]]
    """The project's memory over each peer's: of the work (training), and with the imports (peak)."""
    vocabularies: dict[str, dict[str, Memory | Skipped]]
    """Memory by contestant and number of entries; the first is the table's own."""


class Decoded(TypedDict):
    """One contestant's decoding, in float32."""

    parameters: int
    forward_ms: Spread
    """One forward over max_length tokens, batch 1."""
    token_ms: Spread
    """One token after a cached prompt."""
    tokens_per_second: dict[str, Spread]
    """By number of prompts that are continued at once, the reading of the prompts included."""


class Decoding(TypedDict):
    """Greedy decoding with a cache, all after the same prompts."""

    new_tokens: int
    prompt_tokens: dict[str, float]
    """By number of prompts: their mean length."""
    contestants: dict[str, Decoded | Skipped]
    token_ratio: dict[str, Spread]
    """The project's time of a cached token over each peer's."""
    speedup: dict[str, dict[str, Spread]]
    """The project's tokens/s over each peer's, by number of prompts."""


class Text(TypedDict):
    """MB/s of the text stages."""

    megabytes: float
    one_core: dict[str, Spread]
    """By stage, in a process that may use one core alone: MB/s a core."""
    all_cores: dict[str, Spread]
    """By stage, of those that can use more cores."""
    curve: dict[str, dict[str, float]]
    """One core, by stage and size of the corpus in MB."""


class Loaded(TypedDict):
    """Training from the data module."""

    tokens_per_second: Spread
    wait_share: Spread
    """Share of the step that it waits for its batch."""
    wait_ms: Spread


class Data(TypedDict):
    """Training as users run it, data module and all."""

    batching: dict[str, Loaded | Skipped]
    packed_speedup: Spread | None
    """Tokens/s of packed batches over dynamic ones."""


class LearningCurve(TypedDict):
    """One training, tested on its way."""

    seed: int
    steps: list[int]
    seconds: list[float]
    """Of training, up to each test."""
    bits_per_byte: list[float]
    """Of the test split."""


class Quality(TypedDict):
    """Experiments that were trained for the same time."""

    seconds: float
    """That were meant."""
    curves: dict[str, list[LearningCurve]]
    """By experiment, one a seed."""


class Prepared(TypedDict):
    """What one run of `scripts/prepare.py` cost, with all its processes."""

    seconds: float
    cpu_seconds: float
    mb_per_second: float
    """MB of XML, from the packed dump to encoded splits."""
    peak_mib: float
    """Most memory that its processes had at a time, what they share counted once."""


class CorpusSize(TypedDict):
    """A dump of one size."""

    pages: int
    xml_mb: float
    articles: int
    """That were kept."""
    one_file: Prepared
    in_parts: Prepared
    evaluation_seconds: float | None
    """None where nothing was evaluated."""


class Corpus(TypedDict):
    """Costs as the corpus grows."""

    parts: int
    """Files of a dump in parts."""
    sizes: list[CorpusSize]


class TrainingProcesses(TypedDict):
    """DDP training in several processes, one per core."""

    processes: int
    parameters: int
    tokens_per_second: Spread
    """Of one process; over rounds and processes."""
    lost: Spread
    """Share of the time that the exchange of gradients takes, against the same steps without it."""


class PreparedBy(Prepared):
    """Preparing a dump in several processes."""

    processes: int


class Processes(TypedDict):
    """What a further process brings."""

    training: list[TrainingProcesses]
    preparation: list[PreparedBy]


class Result(TypedDict):
    """The whole file."""

    schema: int
    date: str
    seconds: float
    rounds: int
    machine: Machine
    config: dict[str, Any]
    """The composed configuration."""
    parts: dict[str, Any]
    """By name: Training, Decoding, Text, Data, Quality, Corpus, Processes, or Skipped."""
