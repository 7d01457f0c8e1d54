"""Preparing a corpus in tasks: the tasks, their files, and how the results are joined.

First, tasks read each part of the source into a file of articles. Then, tasks clean and filter ranges of these files.
One process joins the results, with all articles in order.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.duplicates import DuplicateFilter, Sketch
from minillm.corpus.examining import Examined, examine_all
from minillm.corpus.quality import QualityFilter
from minillm.corpus.sources import InParts
from minillm.corpus.sources.export import Left
from minillm.corpus.sources.hash_set import HashSet
from minillm.engines import Engine, Task
from minillm.errors import OutsideError
from minillm.files import written_whole
from minillm.parallel import batches, weighed_batches

BATCH, MAX_BATCH_CHARACTERS = 256, 4_000_000  # maximum articles and characters of a batch, which bounds the memory
MAX_FILES = 4096  # if there are more parts, several are read into one file
PER_CALL = 64  # articles examined together
TEXTS = ("title", "url", "timestamp", "licence", "wikitext_sha256", "whence")
READ = pa.schema(
    [("page_id", pa.int64()), ("revision_id", pa.int64()), ("place", pa.float64())]
    + [(name, pa.string()) for name in (*TEXTS, "sha256", "reason", "name", "problem", "text")]
)  # the text is the last column, so that reading the others skips its pages
EXAMINED = pa.schema(
    [
        ("reason", pa.string()),
        ("shorter", pa.string()),  # JSON
        ("digest", pa.uint64()),
        ("hashes", pa.binary()),
        ("text", pa.string()),
    ]
)


class Range(NamedTuple):
    """A range of a file's records.

    Attributes:
        file: from `read_parts`.
        start: the first record.
        stop: the record after the last.
    """

    file: Path
    start: int
    stop: int


def read_parts(source: InParts, parts: list[Any], limit: int | None, path: Path) -> None:
    """Read parts of a source, and write an article or a reason to skip it for each record.

    Args:
        source: the source.
        parts: some of its parts, in order.
        limit: maximum number of articles; None: all.
        path: the file to write.
    """
    write_records(_first(chain.from_iterable(map(source.read, parts)), limit), path)


def write_records(outcomes: Iterable[Article | Left], path: Path) -> None:
    """Write articles and skipped records to a file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, READ) as writer:
        for batch in weighed_batches(outcomes, BATCH, _weight, MAX_BATCH_CHARACTERS):
            writer.write_batch(pa.RecordBatch.from_pylist([_row(outcome) for outcome in batch], schema=READ))


def _first(outcomes: Iterable[Article | Left], limit: int | None) -> Iterator[Article | Left]:
    """Yield the outcomes up to ``limit`` distinct articles."""
    seen, number = HashSet(), 0
    for outcome in outcomes:
        yield outcome
        if limit is not None and isinstance(outcome, Article) and seen.add(outcome.page_id):
            number += 1
            if number == limit:
                return


def _weight(outcome: Article | Left) -> int:
    return len(outcome.text) if isinstance(outcome, Article) else 0


def _row(outcome: Article | Left) -> dict[str, Any]:
    if isinstance(outcome, Left):
        return outcome._asdict()
    row = {name: getattr(outcome, name) for name in ("page_id", "revision_id", "place", *TEXTS, "text")}
    return {**row, "sha256": outcome.sha256}


def examine(
    cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int, records: Range, path: Path
) -> None:
    """Clean and filter the articles of a range, and write the results.

    Args:
        cleaner: the cleaning chain.
        quality: the quality filter.
        duplicates: makes the sketches.
        min_length: articles with fewer characters after cleaning are dropped.
        records: the articles.
        path: the file to write.

    Raises:
        OutsideError: an article is damaged.
    """
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, EXAMINED) as writer:
        for batch in _batches(records, READ.names):
            articles = [_article(row) for row in batch.to_pylist() if row["reason"] is None]
            _check(records.file, batch, articles)
            found = iter(
                [
                    examined
                    for some in batches(articles, PER_CALL)
                    for examined in examine_all(cleaner, quality, duplicates, min_length, some)
                ]
            )
            rows = [
                _examined_row(next(found)) if reason is None else dict.fromkeys(EXAMINED.names)
                for reason in batch["reason"].to_pylist()
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=EXAMINED))


def _check(file: Path, batch: pa.RecordBatch, articles: list[Article]) -> None:
    written = [sha256 for sha256 in batch["sha256"].to_pylist() if sha256 is not None]
    for article, sha256 in zip(articles, written, strict=True):
        if article.sha256 != sha256:
            raise damaged(file, f"article {article.page_id} is not as it was read")


def damaged(file: Path, problem: object) -> OutsideError:
    """Return the error for a damaged file."""
    return OutsideError(
        f"{file}: is damaged ({' '.join(str(problem).split())}); remove it and run the same command again"
    )


def _article(row: dict[str, Any]) -> Article:
    return Article(
        **{name: row[name] for name in ("page_id", "revision_id", "place", *TEXTS)}, text=row.get("text", "")
    )


def _examined_row(examined: Examined) -> dict[str, Any]:
    sketch = examined.sketch
    hashes = sketch.hashes.tobytes() if sketch is not None and sketch.hashes is not None else None
    return {
        "text": examined.text,
        "reason": examined.reason,
        "shorter": json.dumps(examined.shorter),
        "digest": None if sketch is None else sketch.digest,
        "hashes": hashes,
    }


def _examined(row: dict[str, Any]) -> Examined:
    hashes = None if row["hashes"] is None else np.frombuffer(row["hashes"], dtype=np.uint32)
    sketch = None if row["digest"] is None else Sketch(row["digest"], hashes)
    return Examined(row["text"], json.loads(row["shorter"]), row["reason"], sketch)


def _batches(records: Range, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the records of a range in batches, without reading the records before it."""
    position = 0
    try:
        with pa.memory_map(str(records.file)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                begin, end = max(records.start - position, 0), min(records.stop - position, len(batch))
                position += len(batch)
                if begin < end:
                    yield batch.select(columns).slice(begin, end - begin)
                if position >= records.stop:
                    return
    except (OSError, pa.ArrowException) as error:
        raise damaged(records.file, error) from error


def length(file: Path) -> int:
    """Return the number of records in a file."""
    try:
        with pa.memory_map(str(file)) as content, pa.ipc.open_file(content) as reader:
            return sum(len(reader.get_batch(number)) for number in range(reader.num_record_batches))
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error


class Join:
    """The articles of all parts, in order; `InParts.joined` resolves dependencies between the parts.

    For the source it replaces a raw store: it knows which articles came before.

    Args:
        source: the source; None: take all articles in the files.
        files: from `read_parts`, in the order of the parts.
        limit: maximum number of articles; None: all.
    """

    def __init__(self, source: InParts | None, files: Sequence[Path], limit: int | None) -> None:
        self.source, self.files, self.limit = source, files, limit
        self.meta: dict[str, Any] = {}
        self._ids = HashSet()
        self._at = (0, 0)  # the last article's file and record
        self._sha256 = ""

    def __contains__(self, page_id: object) -> bool:
        return page_id in self._ids

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.files[0].parent

    def page_ids(self) -> Iterator[int]:
        """Yield nothing: initially there are no articles."""
        return iter(())

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return self.meta.get(key, default)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a value under a key."""
        self.meta[key] = value

    def articles(self) -> Iterator[tuple[Article, str, tuple[int, int]]]:
        """Yield each article without its text, its text's SHA-256, and the numbers of its file and record."""
        outcomes = self._outcomes()
        joined = (
            self.source.joined(outcomes, self.limit, self)
            if self.source
            else (outcome for outcome in outcomes if isinstance(outcome, Article))
        )
        for article in joined:
            if self._ids.add(article.page_id):
                yield article, self._sha256, self._at

    def _outcomes(self) -> Iterator[Article | Left]:
        columns = [name for name in READ.names if name != "text"]
        for number, file in enumerate(self.files):
            record = -1
            for batch in _batches(Range(file, 0, 2**62), columns):
                for row in batch.to_pylist():
                    record += 1
                    self._at, self._sha256 = (number, record), row["sha256"]
                    if row["reason"] is None:
                        yield _article(row)
                    else:
                        yield Left(row["reason"], row["page_id"], row["name"], row["problem"])


class Summary(NamedTuple):
    """Facts about the articles after all parts are read; JSON values.

    Attributes:
        articles: number of articles.
        digest: hash of the articles in their order, as `RawStore.digest`.
        counts: the source's counts.
        needed: number of records used of each file.
    """

    articles: int
    digest: str
    counts: dict[str, int]
    needed: list[int]


def summed_up(join: Join) -> Summary:
    """Return the summary of all articles; reads everything but their texts."""
    digest, number = hashlib.sha256(), 0
    needed = [0] * len(join.files)
    for article, sha256, (file, record) in join.articles():
        row = [getattr(article, name) for name in ("page_id", "revision_id", *TEXTS[:-1])] + [sha256]
        digest.update(json.dumps(row if article.place is None else [*row, article.place]).encode())
        number += 1
        needed[file] = record + 1
    return Summary(number, digest.hexdigest(), join.meta.get("counts", {}), needed)


def read(source: InParts, parts: list[Any], limit: int | None, engine: Engine, folder: Path) -> tuple[Join, Summary]:
    """Read all parts of a source in tasks; parts that were read before are not read again.

    Args:
        source: the source.
        parts: its parts.
        limit: maximum number of articles; None: all.
        engine: runs the tasks.
        folder: for the articles, beside the raw stores.
    """
    size = -(-len(parts) // MAX_FILES)  # not engine.tasks, so that the files do not depend on the number of tasks
    first = "" if limit is None else f"-first-{limit}"
    tasks = [
        Task(
            partial(read_parts, source, parts[start : start + size], limit),
            folder / f"part-{start:06}-{size}{first}.arrow",
        )
        for start in range(0, len(parts), size)
    ]
    engine.run(tasks, folder, "reading articles")
    join = Join(source, [task.result for task in tasks], limit)
    if (summary := known(folder, limit)) is None:
        summary = summed_up(join)
        with written_whole(_record(folder, limit)) as file:
            file.write_text(json.dumps(summary), encoding="utf-8")
    return join, summary


def known(folder: Path, limit: int | None) -> Summary | None:
    """Return the summary of articles that `read` has read; None: it has not."""
    try:
        return Summary(*json.loads(_record(folder, limit).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _record(folder: Path, limit: int | None) -> Path:
    return folder / f"reading-{limit or 'all'}.json"


def exported(articles: Iterable[Article], number: int, tasks: int, folder: Path) -> tuple[Join, Summary]:
    """Write articles of a raw store to files, so that tasks need not open the store.

    Args:
        articles: from the store.
        number: number of articles.
        tasks: approximate number of files.
        folder: for the files.
    """
    size = max(1, -(-number // tasks))
    files, articles = [], iter(articles)
    for start in range(0, number, size):
        files.append(folder / f"stored-{start:09}-{size}.arrow")
        some = islice(articles, size)
        if files[-1].exists():
            for _ in some:
                pass
        else:
            with written_whole(files[-1]) as file:
                write_records(some, file)
    return Join(None, files, None), Summary(
        number, "", {}, [min(size, number - start) for start in range(0, number, size)]
    )


class Spread:
    """Articles in files, from which a corpus is prepared.

    Args:
        join: the articles in order.
        summary: of the join.
        engine: runs the tasks.
        folder: for the results of tasks.
        origin: exact description of what the source has read, if known.
    """

    def __init__(
        self, join: Join, summary: Summary, engine: Engine, folder: Path, origin: dict[str, Any] | None = None
    ) -> None:
        self._join, self._summary, self.engine, self._folder = join, summary, engine, folder
        self.articles = self.fetched = summary.articles
        self.counts, self.origin = summary.counts, origin

    def texts(self, number: int) -> Iterator[str]:
        """Yield at most ``number`` evenly spaced texts, as `RawStore.texts`."""
        step = max(1, -(-self.articles // number))
        for position, (_, _, (file, record)) in enumerate(self._fresh().articles(), 1):
            if position % step == 1 % step:
                for batch in _batches(Range(self._join.files[file], record, record + 1), ["text"]):
                    yield batch["text"][0].as_py()

    def examined(
        self, cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int
    ) -> Iterator[tuple[Article, str | None, Examined]]:
        """Yield each article without its text, its text's SHA-256, and its result, in order."""
        work = partial(examine, cleaner, quality, duplicates, min_length)
        ranges = self._ranges()
        results = [
            self._folder / f"examined-{number:05}-{records.start}-{records.stop}.arrow" for number, records in ranges
        ]
        tasks = [Task(partial(work, records), path) for (_, records), path in zip(ranges, results, strict=True)]
        self.engine.run(tasks, self._folder, "examining articles")
        found = self._rows(ranges, results)
        for article, sha256, at in self._fresh().articles():
            row = next(row for place, row in found if place == at)
            yield article, sha256, _examined(row)

    def _fresh(self) -> Join:
        return Join(self._join.source, self._join.files, self._join.limit)

    def _ranges(self) -> list[tuple[int, Range]]:
        """Divide the records into about as many ranges as tasks, each within one file."""
        size = max(1, -(-sum(self._summary.needed) // (self.engine.tasks or 1)))
        return [
            (number, Range(file, start, min(start + size, needed)))
            for number, (file, needed) in enumerate(zip(self._join.files, self._summary.needed, strict=True))
            for start in range(0, needed, size)
        ]

    @staticmethod
    def _rows(ranges: list[tuple[int, Range]], results: list[Path]) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        for (number, records), path in zip(ranges, results, strict=True):
            record = records.start
            for batch in _batches(Range(path, 0, 2**62), EXAMINED.names):
                for row in batch.to_pylist():
                    yield (number, record), row
                    record += 1
