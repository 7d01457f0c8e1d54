"""The text stages at work, in a process of their own."""

import dataclasses
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from minillm.arithmetic import seconds
from minillm.benchmarking.worker import Turns
from minillm.corpus import Article, Cleaner, Corpus, DumpSource, DuplicateFilter, QualityFilter, RawStore, SampleSource
from minillm.corpus.sources.source import Held
from minillm.tokenization import BPETokenizer, Tokenizer, WordTokenizer

MB = 1e6
# These may use more cores; of the others a process does one article after another.
PARALLEL = ("fitting, word", "fitting, bpe", "encoding, word", "encoding, bpe", "whole corpus", "dump")


def work_through(
    turns: Turns,
    megabytes: float,
    vocab_size: int,
    dump: str | None,
    dump_articles: int | None,
    processes: int,
    stages: Sequence[str] | None,
) -> None:
    """Send text through the stages, all of them a turn.

    Args:
        turns: one's turns.
        megabytes: how much text.
        vocab_size: of the tokenizers.
        dump: a dump to read; None: none.
        dump_articles: its articles that are read; None: all.
        processes: that may make text of a dump.
        stages: which stages; None: all.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark_") as scratch:
        articles = enlarged_sample(megabytes)
        work = _work(articles, vocab_size, Path(scratch))
        if dump is not None:
            source = DumpSource(dump, processes)
            work["dump"] = lambda: size(source.articles(dump_articles, _Nothing()))
        chosen = {name: run for name, run in work.items() if stages is None or name in stages}
        turns.ready()
        while True:
            turns.wait()
            speeds = {}
            for name, run in chosen.items():
                amount: list[float] = []
                taken = seconds(lambda run=run, amount=amount: amount.append(run()))  # type: ignore[misc]
                speeds[name] = amount[0] / MB / taken
            turns.done(speeds=speeds)


def size(articles: Any) -> float:
    """Return the UTF-8 bytes of the articles' texts."""
    return float(sum(len(article.text.encode()) for article in articles))


def enlarged_sample(megabytes: float) -> list[Article]:
    """Return the sample corpus, and then copies of it in which the words of each line stand in another order.

    So letters, words and lines are those of real text, and yet no article is a duplicate of another.

    Args:
        megabytes: how much of it.
    """
    originals = list(SampleSource().articles(None, set()))
    made: list[Article] = []
    left = megabytes * MB
    shuffle = random.Random(0).shuffle
    copy = 0
    while left > 0:
        for article in originals:
            if left <= 0:
                break
            text = article.text
            if copy:
                lines = [line.split(" ") for line in text.split("\n")]
                for line in lines:
                    if line[0] != "==":  # a heading stays one
                        shuffle(line)
                text = "\n".join(" ".join(line) for line in lines)
            made.append(dataclasses.replace(article, page_id=len(made) + 1, text=text))
            left -= len(text.encode())
        copy += 1
    return made


def _work(articles: Sequence[Article], vocab_size: int, scratch: Path) -> dict[str, Callable[[], float]]:
    """Return the stages by name: each does its work once, and returns how many bytes of text it took."""
    cleaner, quality, duplicates = Cleaner(), QualityFilter(), DuplicateFilter()
    store = RawStore(scratch / "store.sqlite")
    for article in articles:
        store.add(article)
    clean = [cleaner.clean(article.text)[0] for article in articles]
    raw_size, clean_size = size(articles), float(sum(len(text.encode()) for text in clean))
    quality.reason("", clean[0], clean[0])  # loads its language model, once a process
    fitted: dict[str, Tokenizer] = {"word": WordTokenizer(), "bpe": BPETokenizer()}
    for tokenizer in fitted.values():
        tokenizer.fit(clean, vocab_size)

    def cleaning() -> float:
        for article in articles:
            cleaner.clean(article.text)
        return raw_size

    def judging() -> float:
        for article, text in zip(articles, clean, strict=True):
            quality.reason(article.title, article.text, text)
        return clean_size

    def comparing() -> float:
        for _ in duplicates.reasons(clean):
            pass
        return clean_size

    def whole() -> float:
        folder = scratch / "corpus"
        shutil.rmtree(folder, ignore_errors=True)
        Corpus(_Given(articles), folder, num_articles=len(articles)).prepare()
        return raw_size

    def fitting(tokenizer: Tokenizer) -> float:
        type(tokenizer)().fit(clean, vocab_size)
        return clean_size

    def encoding(tokenizer: Tokenizer) -> float:
        remaining = iter(clean)
        while batch := list(islice(remaining, 500)):
            tokenizer.encode_batch(batch)
        return clean_size

    return {
        "store read": lambda: size(store),
        "cleaning": cleaning,
        "quality": judging,
        "duplicates": comparing,
        "whole corpus": whole,
        **{f"fitting, {kind}": lambda t=tokenizer: fitting(t) for kind, tokenizer in fitted.items()},  # type: ignore[misc]
        **{f"encoding, {kind}": lambda t=tokenizer: encoding(t) for kind, tokenizer in fitted.items()},  # type: ignore[misc]
    }


@dataclass(frozen=True)
class _Given:
    """A source of articles in memory."""

    given: Sequence[Article]
    name: ClassVar[str] = "given"

    def describe(self) -> dict[str, Any]:
        return {"articles": len(self.given)}

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        return islice((article for article in self.given if article.page_id not in held), limit)


class _Nothing:
    """A corpus without articles."""

    folder = Path(tempfile.gettempdir())

    def page_ids(self) -> tuple[int, ...]:
        return ()

    def __contains__(self, page_id: object) -> bool:
        return False

    def get_meta(self, key: str, default: Any = None) -> Any:
        return default

    def set_meta(self, key: str, value: Any) -> None:
        pass
