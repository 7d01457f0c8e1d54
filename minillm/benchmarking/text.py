"""How many megabytes of text each stage takes per second, on one core: cleaning, filter, tokenizers, a dump."""

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from minillm.arithmetic import seconds
from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.report import Report, shown, spread
from minillm.benchmarking.worker import Turns, Unavailable
from minillm.console import number_table
from minillm.corpus import Cleaner, DumpSource, QualityFilter, RawStore, SampleSource
from minillm.errors import SettingError
from minillm.models.sizes import check_sizes
from minillm.parallel import batches
from minillm.tokenization import BPETokenizer, WordTokenizer

MB = 1e6


@dataclass(frozen=True)
class TextSpeed:
    """Sends the sample corpus, repeated, through each stage.

    Args:
        megabytes: of text.
        vocab_size: of the tokenizers.
        dump: a pages-articles dump, .bz2 or plain, to convert to text; None: none.
        dump_articles: number of its articles; None: all.
        rounds: at most, since they take long.

    Raises:
        SettingError: a number too small, or no such dump.
    """

    megabytes: float = 2.0
    vocab_size: int = 5000
    dump: str | None = None
    dump_articles: int | None = 2000
    rounds: int = 3

    def __post_init__(self) -> None:
        if not self.megabytes > 0:
            raise SettingError("megabytes", self.megabytes, "must be over 0, such as 2")
        if self.vocab_size < BPETokenizer.smallest:
            raise SettingError("vocab_size", self.vocab_size, f"must be at least {BPETokenizer.smallest}, such as 5000")
        if self.dump is not None and not Path(self.dump).expanduser().is_file():
            raise SettingError("dump", self.dump, "is no file; give a pages-articles dump, .bz2 or plain")
        check_sizes(rounds=self.rounds, dump_articles=self.dump_articles)

    def measure(self, session: Session) -> Report:
        """Return MB/s of each stage."""
        rounds = min(self.rounds, session.rounds)
        outcomes, skipped = session.compete({"text": partial(_work, part=self)}, rounds=rounds)
        if skipped:
            raise Unavailable(skipped["text"])
        turns = [turn["speeds"] for turn in outcomes["text"][1:]]
        speeds = {stage: spread([turn[stage] for turn in turns]) for stage in turns[0]}
        table = number_table(f"Text: MB/s on one core, {self.megabytes:g} MB of UTF-8", "stage", "MB/s")
        for stage, speed in speeds.items():
            table.add_row(stage, shown(speed, ",.2f"))
        return Report({"megabytes": self.megabytes, "one_core": speeds}, table, {"text, MB/s on one core": speeds})


def _work(turns: Turns, part: TextSpeed) -> None:
    """Send text through all stages per turn, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["RAYON_NUM_THREADS"] = "1"
    sample = [article.text for article in SampleSource().articles(None, set())]
    texts = [*islice(cycle(sample), math.ceil(len(sample) * part.megabytes / _megabytes(sample)))]
    cleaner, quality, word, bpe = Cleaner(), QualityFilter(), WordTokenizer(), BPETokenizer()
    clean = [cleaner.clean(text)[0] for text in texts]
    quality.reason("", clean[0], clean[0])  # loads its language model
    word.fit(clean, part.vocab_size)
    bpe.fit(clean, part.vocab_size)
    stages = {
        "cleaning": lambda: [cleaner.clean(text) for text in texts],
        "quality": lambda: [quality.reason("", *both) for both in zip(texts, clean, strict=True)],
        "fitting, word": lambda: WordTokenizer().fit(clean, part.vocab_size),
        "fitting, bpe": lambda: BPETokenizer().fit(clean, part.vocab_size),
        "encoding, word": lambda: [word.encode_batch(batch) for batch in batches(clean, 500)],
        "encoding, bpe": lambda: [bpe.encode_batch(batch) for batch in batches(clean, 500)],
    }
    sizes = {stage: _megabytes(texts if stage == "cleaning" else clean) for stage in stages}
    with tempfile.TemporaryDirectory(prefix="benchmark_") as scratch:
        if part.dump is not None:
            source, nothing = DumpSource(part.dump, 1), RawStore(Path(scratch, "empty.sqlite"))

            def read() -> float:
                return _megabytes(article.text for article in source.articles(part.dump_articles, nothing))

            stages["dump"], sizes["dump"] = read, read()
        turns.ready()
        for _ in turns:
            turns.done(speeds={stage: sizes[stage] / seconds(work) for stage, work in stages.items()})


def _megabytes(texts: Iterable[str]) -> float:
    return sum(len(text.encode()) for text in texts) / MB
