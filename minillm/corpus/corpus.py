"""Preparing a corpus: the articles of a source are stored, cleaned, filtered and split, once.

The corpus is never in memory as a whole. The articles that pass the filters are first written to a temporary file. Once
all are examined, duplicates are known, and the others are copied into the splits.
"""

import contextlib
import csv
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from minillm.corpus import cleaning, duplicates, quality, split, spreading, store
from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.duplicates import DuplicateFilter, Sketches
from minillm.corpus.examining import Examined, examine_all
from minillm.corpus.fingerprint import fingerprint, is_fingerprint, libraries
from minillm.corpus.lock import LockWriter
from minillm.corpus.quality import AUTO, MAJORITY, QualityFilter, language_of
from minillm.corpus.sources import InParts, Source
from minillm.corpus.split import SPLITS, check_shares, split_of
from minillm.corpus.spreading import Spread
from minillm.corpus.store import DamagedStoreError, RawStore, set_aside
from minillm.engines import Engine, Local
from minillm.errors import OutsideError, SettingError
from minillm.files import damaged_files, is_whole, locked, problem_of, written_whole
from minillm.parallel import batches, cores, in_order, processes_for
from minillm.progress import track

log = logging.getLogger(__name__)

VERSION = 3  # increased when the format of the prepared folder changes
BLAMED = {  # reasons to drop an article, in the order of the checks, with the setting and what to change
    "redirect": ("quality.redirects", "false keeps them"),
    "disambiguation": ("quality.disambiguations", "false keeps them"),
    "list": ("quality.lists", "false keeps them"),
    "not Spanish": ("quality.language", "null keeps them"),
    "other language": ("quality.language", "null keeps them"),
    "too short": ("min_length", "lower it"),
    "exact duplicate": ("duplicates.exact", "false keeps them"),
    "near duplicate": ("duplicates.near", "false keeps them"),
}
SCHEMA = pa.schema(
    [("page_id", pa.int64()), ("revision_id", pa.int64())]
    + [(name, pa.string()) for name in ("title", "url", "timestamp", "licence", "text")]
)
KEEPING = {  # the override that would keep an article, by reason
    **{reason: f"data.{setting}=false" for reason, (setting, _) in BLAMED.items()},
    **dict.fromkeys(("not Spanish", "other language"), "data.quality.language=null"),
    "too short": "data.min_length={characters}",
}
SPOOLED = pa.schema([*SCHEMA, ("whence", pa.string()), ("place", pa.float64())])
ATTRIBUTION, LOCK, DROPPED = "ATTRIBUTION.tsv", "corpus.lock.json", "dropped.tsv"
ATTRIBUTED = ["title", "url", "revision_id", "licence"]
BEGINNING = 100  # characters of a dropped article that are shown
LANGUAGE_ARTICLES, LANGUAGE_CHARACTERS = 1000, 5000  # evenly spaced articles, and characters of each, to detect it
BATCH = 256  # maximum articles per write, which bounds the memory
MAX_BATCH_BYTES = 16_000_000  # of text per write
PER_TASK = 64  # articles that a process examines at a time


@dataclass(frozen=True)
class Corpus:
    """The articles of a source, cleaned, filtered, and split into train, val and test.

    The work is done once: ``data_dir/raw`` has the unchanged articles, and ``data_dir/corpus/<fingerprint>`` the
    prepared ones, which are used whenever the same corpus is needed. Several processes can do so at the same time.

    Args:
        source: of the articles.
        cleaner: the cleaning chain.
        quality: the quality filter.
        duplicates: the duplicate filter.
        min_length: articles with fewer characters after cleaning are dropped.
        num_articles: number of articles to read, including those that are then dropped; None: all.
        split: shares of articles for train, val and test.
        data_dir: folder for all files.
        prepared: fingerprint of a prepared corpus to open; the source is then not used.
        engine: where to do the work; the result does not depend on it. None: on this machine.

    Raises:
        SettingError: a value that cannot work; later also: a split without articles, or data_dir cannot be written.
        OutsideError: later: the source or the disk fails; articles read so far stay in the raw store.
    """

    source: Source
    data_dir: str | Path
    cleaner: Cleaner = field(default_factory=Cleaner)
    quality: QualityFilter = field(default_factory=QualityFilter)
    duplicates: DuplicateFilter = field(default_factory=DuplicateFilter)
    min_length: int = 500
    num_articles: int | None = 1000
    split: Sequence[float] = (0.7, 0.15, 0.15)
    prepared: str | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.prepared is not None and not is_fingerprint(self.prepared):
            raise SettingError("prepared", self.prepared, "is not a fingerprint: 16 hexadecimal digits")
        object.__setattr__(self, "split", check_shares(self.split))
        if self.min_length < 0:
            raise SettingError("min_length", self.min_length, "must be at least 0 characters, such as 500")
        if self.num_articles is not None and self.num_articles < 1:
            raise SettingError("num_articles", self.num_articles, "must be at least 1, or null for all articles")

    def prepare(self) -> Path:
        """Prepare the corpus unless it is prepared already; return its folder."""
        return self._folder

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits: a hash of the articles and of all settings and versions of the preparation."""
        return self._folder.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The inputs and results of the preparation, as JSON values.

        ``source``, ``settings``, ``versions`` (of the stages' code) and ``libraries`` determine the result. ``reading``
        has the numbers of articles requested and fetched, the source's counts and, if known, the exact ``origin``;
        ``funnel`` the numbers of articles read, dropped for each reason, and kept; ``cleaning`` the characters that
        each step removed; ``splits`` the articles, characters and UTF-8 bytes of each split. With language "auto",
        ``language`` has the language of most articles, its share, and whether other articles were dropped.
        """
        return dict(json.loads((self._folder / "manifest.json").read_text(encoding="utf-8")))

    def articles(self, split: str) -> Dataset:
        """Return the cleaned articles of a split, memory-mapped.

        Args:
            split: train, val or test.
        """
        file = self._file(split)
        try:
            return Dataset.from_file(str(file))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(file, error) from error

    def batches(self, split: str, *columns: str) -> Iterator[dict[str, list[Any]]]:
        """Yield the articles of a split in order, in batches, each column as a list.

        They are read as a stream, which unlike a memory map needs no memory for earlier articles.

        Args:
            split: train, val or test.
            columns: such as page_id and text.
        """
        file = self._file(split)
        try:
            with pa.OSFile(str(file)) as content, pa.ipc.open_stream(content) as batches:
                for batch in batches:
                    yield batch.select(columns).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(file, error) from error

    def _file(self, split: str) -> Path:
        if split not in SPLITS:
            raise SettingError("split", split, f"must be one of {', '.join(SPLITS)}")
        return self._folder / f"{split}.arrow"

    def _unreadable(self, file: Path, error: Exception) -> OutsideError:
        return OutsideError(f"{file}: cannot be read ({error}); remove its folder and run again")

    @cached_property
    def _folder(self) -> Path:
        if self.prepared is not None:
            folder = Path(self.data_dir) / "corpus" / self.prepared
            if not folder.is_dir():
                raise SettingError("prepared", self.prepared, f"is not in {self.data_dir}")
            if damaged := damaged_files(folder):  # it cannot be made again without its source
                raise OutsideError(f"{folder}: is damaged ({', '.join(damaged)}); prepare the run's data again")
            return folder
        source = self.source.describe()
        name = f"{self.source.name}-{fingerprint({**source, 'store': store.VERSION})}.sqlite"
        raw = Path(self.data_dir) / "raw" / name
        try:
            lock = locked(raw)
        except OSError as error:
            return self._found(raw, source, error)
        with lock:
            if (known := self._known(raw, source)) is not None:
                return known
            try:
                return self._made(raw, source)
            except DamagedStoreError as error:
                log.warning("%s: renamed to %s, and its articles are fetched again", error, set_aside(raw).name)
                return self._made(raw, source)

    def _known(self, raw: Path, source: dict[str, Any]) -> Path | None:
        """Return the folder of the prepared corpus of articles that were read in parts; None: it does not exist."""
        if (summary := spreading.known(_parts_of(raw), self.num_articles)) is None:
            return None
        folder = self._folder_of(self._made_from(summary.digest, source))
        return folder if is_whole(folder) else None

    def _found(self, raw: Path, source: dict[str, Any], problem: OSError) -> Path:
        """Return the folder of the prepared corpus on a read-only disk.

        Raises:
            SettingError: it does not exist.
        """
        if (known := self._known(raw, source)) is not None:
            return known
        if os.access(raw, os.R_OK):
            with RawStore(raw, read_only=True) as store:
                folder = self._folder_of(self._made_from(store.digest(self.num_articles), source))
                if self._wanted(store) == 0 and is_whole(folder):
                    return folder
        advice = f"cannot be written: {problem_of(problem)}"
        raise SettingError("paths.data_dir", self.data_dir, advice) from problem

    def _made(self, raw: Path, source: dict[str, Any]) -> Path:
        """Return the folder of the prepared corpus; prepare it if it does not exist."""
        engine = self.engine if self.engine and self.engine.tasks else None
        in_parts = engine or spreading.known(_parts_of(raw), self.num_articles)
        if in_parts and not self._holds_all(raw):
            engine = engine or Local(tasks=cores())
            if isinstance(self.source, InParts) and (parts := self.source.pieces()):
                return self._made_of_parts(parts, _parts_of(raw), engine, source)
        with RawStore(raw) as store:
            return self._made_of_store(store, engine, source)

    def _holds_all(self, raw: Path) -> bool:
        """Return whether there is a store with all wanted articles, so that nothing needs to be read."""
        if not raw.exists():
            return False
        with RawStore(raw) as store:
            return self._wanted(store) == 0

    def _made_of_store(self, store: RawStore, engine: Engine | None, source: dict[str, Any]) -> Path:
        """Return the folder of the corpus of a store; tasks of an engine get its articles as files."""
        made_from = self._made_from(store.digest(self.num_articles), source)
        if self._wanted(store) == 0 and is_whole(folder := self._folder_of(made_from)):
            return folder
        self._refetch_damaged(store)
        self._read(store, source)
        made_from = self._made_from(store.digest(self.num_articles), source)
        folder = self._folder_of(made_from)
        if is_whole(folder):
            return folder
        if engine is None:
            return self._finished(folder, _Stored(store, self.num_articles), made_from)
        stored = _Stored(store, self.num_articles)
        with _work(self.data_dir, folder) as work:
            articles = islice(store, stored.articles)
            join, summary = spreading.exported(articles, stored.articles, engine.tasks or 1, work)
            summary = summary._replace(counts=stored.counts)
            spread = Spread(join, summary, engine, work, stored.origin)
            spread.fetched = stored.fetched
            return self._finished(folder, spread, made_from)

    def _made_of_parts(self, parts: list[Any], raw: Path, engine: Engine, source: dict[str, Any]) -> Path:
        """Return the folder of the corpus of a source that is read in parts."""
        assert isinstance(self.source, InParts)
        join, summary = spreading.read(self.source, parts, self.num_articles, engine, raw)
        made_from = self._made_from(summary.digest, source)
        folder = self._folder_of(made_from)
        if is_whole(folder):
            return folder
        with _work(self.data_dir, folder) as work:
            return self._finished(folder, Spread(join, summary, engine, work), made_from)

    def _finished(self, folder: Path, articles: "_Stored | Spread", made_from: dict[str, Any]) -> Path:
        """Write the folder of the prepared corpus."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(folder, folder=True) as unfinished:
                self._write(articles, unfinished, {"fingerprint": folder.name, **made_from})
        except OSError as error:
            raise OutsideError(f"{folder}: cannot be written ({problem_of(error)})") from error
        return folder

    def _made_from(self, digest: str, source: dict[str, Any]) -> dict[str, Any]:
        """Return everything that determines the prepared corpus; not the engine."""
        return {
            "source": {"name": self.source.name, **source},
            "articles": digest,
            "settings": {
                "cleaning": asdict(self.cleaner),
                "quality": asdict(self.quality),
                "duplicates": asdict(self.duplicates),
                "min_length": self.min_length,
                "split": list(self.split),
            },
            "versions": {
                "cleaning": cleaning.VERSION,
                "quality": quality.VERSION,
                "duplicates": duplicates.VERSION,
                "split": split.VERSION,
                "corpus": VERSION,
            },
            "libraries": libraries("cleaning", "quality", "duplicates"),
        }

    def _folder_of(self, made_from: dict[str, Any]) -> Path:
        return Path(self.data_dir) / "corpus" / fingerprint(made_from)

    def _wanted(self, store: RawStore) -> int | None:
        """Return the number of articles that are still to be read; None: all."""
        if store.get_meta("complete"):
            return 0
        return None if self.num_articles is None else max(0, self.num_articles - len(store))

    def _refetch_damaged(self, store: RawStore) -> None:
        """Fetch damaged articles again, and replace them."""
        damaged = store.damaged()
        for page_id, title in damaged.items():
            log.warning("%s: article %d (%s) is damaged and is fetched again", store.path, page_id, title)
        if damaged:
            for article in self.source.articles(len(damaged), store.without(damaged)):
                store.replace(article) or store.add(article)
        for page_id, title in store.damaged().items() if damaged else ():
            log.warning("%s: article %d (%s) is not available any more and is removed", store.path, page_id, title)
            store.remove(page_id)

    def _read(self, store: RawStore, source: dict[str, Any]) -> None:
        """Read articles into the store until it has the wanted number, or all."""
        held, wanted = len(store), self._wanted(store)
        if wanted == 0:
            return
        store.set_meta("source", source)
        articles = self.source.articles(wanted, store)
        try:
            # Without a wanted number, the source shows its own progress.
            for article in articles if wanted is None else track(articles, "reading articles", wanted):
                store.add(article)
        except DamagedStoreError:
            raise
        except OutsideError as error:
            if not len(store):
                raise
            advice = f"the {len(store):,} articles read so far are kept: run the same command again to continue"
            raise OutsideError(f"{error}; {advice}") from error
        if wanted is None or len(store) - held < wanted:
            store.set_meta("complete", True)  # the source has no more articles

    def _write(self, articles: "_Stored | Spread", folder: Path, made_from: dict[str, Any]) -> None:
        """Write splits, attribution, lock file and manifest."""
        read, origin = articles.articles, articles.origin
        dropped: Counter[str] = Counter()
        removed: Counter[str] = Counter()
        longest = 0
        language, quality = self._language(articles)
        with (
            _DroppedWriter(folder / DROPPED) as dropped_articles,
            _Spool(folder) as spool,
            self.duplicates.start(folder, articles.engine) as sketches,
        ):
            # For a dump only its name, so that one file and its parts give the same lock.
            with LockWriter(folder / LOCK, {"name": self.source.name, **(origin or {})}) as lock:
                examined = articles.examined(self.cleaner, quality, self.duplicates, self.min_length)
                for article, sha256, found in track(examined, "preparing articles", read):
                    text, shorter, reason, sketch = found
                    lock.add(article, sha256)
                    removed.update(shorter)
                    longest = max(longest, len(text))
                    if sketch is None:
                        dropped[str(reason)] += 1
                        dropped_articles.add(article.title, article.url or article.whence, str(reason), text)
                    else:
                        spool.add(article, text)
                        sketches.add(sketch)
            splits = self._write_splits(spool, sketches, dropped, dropped_articles, folder)
        kept = sum(counts["articles"] for counts in splits.values())
        reasons = [reason for reason in BLAMED if "language" not in BLAMED[reason][0] or reason == quality.foreign]
        funnel = {"read": read, **{reason: dropped[reason] for reason in reasons}, "kept": kept}
        empty = [name for name, share in zip(SPLITS, self.split, strict=True) if share and not splits[name]["articles"]]
        if empty:
            raise self._too_few(funnel, " and ".join(empty), longest, made_from["source"])
        reading: dict[str, Any] = {"requested": self.num_articles, "fetched": articles.fetched, **articles.counts}
        if origin:
            reading["origin"] = origin
        manifest = {**made_from, "reading": reading, "funnel": funnel, "cleaning": dict(removed), "splits": splits}
        if language:
            manifest["language"] = language
        (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")

    def _language(self, articles: "_Stored | Spread") -> tuple[dict[str, Any] | None, QualityFilter]:
        """Return the language of most articles, with "auto", and the quality filter with that language."""
        if self.quality.language != AUTO:
            return None, self.quality
        texts = (self.cleaner.clean(text[:LANGUAGE_CHARACTERS])[0] for text in articles.texts(LANGUAGE_ARTICLES))
        found = language_of(texts)
        one = found is not None and found.share >= MAJORITY
        result = {"found": found and found.code, "share": found.share if found else 0.0, "others_dropped": one}
        return result, replace(self.quality, language=found.code if found and one else None)

    def _write_splits(
        self,
        spool: "_Spool",
        sketches: Sketches,
        dropped: Counter[str],
        dropped_articles: "_DroppedWriter",
        folder: Path,
    ) -> dict[str, dict[str, int]]:
        """Copy the articles that are not duplicates into the splits; return the counts of each split."""
        reasons = sketches.reasons()
        with contextlib.ExitStack() as files:
            writers = {name: files.enter_context(_SplitWriter(folder / f"{name}.arrow")) for name in SPLITS}
            attribution = files.enter_context((folder / ATTRIBUTION).open("w", encoding="utf-8", newline=""))
            table = csv.writer(attribution, "excel-tab")
            table.writerow(ATTRIBUTED)
            for batch in spool.batches():
                rows: dict[str, list[int]] = {name: [] for name in SPLITS}
                identities = zip(*(batch[name].to_pylist() for name in ("page_id", "place")), strict=True)
                for row, ((page_id, place), reason) in enumerate(zip(identities, reasons, strict=False)):
                    if reason:
                        dropped[reason] += 1
                        title, url, whence, text = (
                            batch[name][row].as_py() for name in ("title", "url", "whence", "text")
                        )
                        dropped_articles.add(title, url or whence, reason, text)
                    else:
                        rows[split_of(page_id, self.split, place)].append(row)
                kept = batch.select(ATTRIBUTED).take(pa.array(sorted(chain(*rows.values())), pa.int64()))
                table.writerows(zip(*kept.to_pydict().values(), strict=True))
                batch = batch.select(SCHEMA.names)
                for name, writer in writers.items():
                    writer.add(batch.take(pa.array(rows[name], pa.int64())))
        return {name: writer.counts for name, writer in writers.items()}

    def _too_few(self, funnel: dict[str, int], empty: str, longest: int, source: dict[str, Any]) -> SettingError:
        """Return the error for splits without articles; it names the setting that dropped most articles."""
        read, kept = funnel["read"], funnel["kept"]
        if not read:
            return SettingError("data.source", self.source.name, "has no article to read")
        reason = max(BLAMED, key=lambda reason: funnel.get(reason, 0))
        leaves = f"leaves too few articles, {kept:,} of {read:,}" if kept else f"leaves no article of {read:,}"
        if funnel.get(reason, 0) > kept:
            setting, remedy = BLAMED[reason]
            cause = f"{funnel[reason]:,} dropped: {reason}"
            if reason == "too short":
                cause = f"the longest has {longest:,} characters"
            return SettingError(f"data.{setting}", attrgetter(setting)(self), f"{leaves} ({cause}); {remedy}")
        if self.num_articles == read:
            return SettingError("data.num_articles", read, f"{leaves}, none of them in {empty}; raise it")
        if (parts := source.get("cut", {}).get("parts")) == "together":
            advice = (
                f"{leaves}, none of them in {empty}, since a file's articles stay together; blocks splits each file"
            )
            return SettingError("data.source.parts", parts, advice)
        return SettingError("data.split", list(self.split), f"{leaves}, none of them in {empty}; give it more articles")


class _Stored:
    """Articles in a raw store, from which a corpus is prepared by processes on this machine.

    Args:
        store: the store.
        num_articles: number of first articles to use; None: all.
    """

    def __init__(self, store: RawStore, num_articles: int | None) -> None:
        self._store = store
        self.engine: Engine | None = None
        self.fetched = len(store)
        self.articles = self.fetched if num_articles is None else min(self.fetched, num_articles)
        self.counts: dict[str, int] = store.get_meta("counts", {})
        self.origin: dict[str, Any] | None = store.get_meta("origin")

    def texts(self, number: int) -> Iterator[str]:
        """Yield at most ``number`` evenly spaced texts."""
        return self._store.texts(number, self.articles)

    def examined(
        self, cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int
    ) -> Iterator[tuple[Article, str | None, Examined]]:
        """Yield each article and its result, in order; on all cores if the corpus is large."""
        size = self._store.size * self.articles // max(1, self.fetched)
        work = partial(examine_all, cleaner, quality, duplicates, min_length)
        shares = batches(islice(self._store, self.articles), PER_TASK)
        for article, examined in in_order(work, shares, processes_for(size)):
            yield article, None, examined


class _Spool:
    """A temporary file of articles, which is removed with this object.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._stream = pa.ipc.new_stream(self._file, SPOOLED)
        self._rows: list[dict[str, Any]] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, article: Article, text: str) -> None:
        """Add an article with its clean text."""
        self._rows.append({**{name: getattr(article, name) for name in SPOOLED.names}, "text": text})
        self._size += len(text)
        if len(self._rows) == BATCH or self._size >= MAX_BATCH_BYTES:
            self._flush()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all articles; no more can be added."""
        self._flush()
        self._stream.close()
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)

    def _flush(self) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SPOOLED))
        self._rows.clear()
        self._size = 0


def _parts_of(raw: Path) -> Path:
    """Return the folder of articles that are read in parts, which replaces the raw store."""
    return raw.with_suffix(".parts")


@contextlib.contextmanager
def _work(data_dir: str | Path, folder: Path) -> Iterator[Path]:
    """Create the folder for the results of tasks, and remove it at the end, or if the settings are refused.

    After other errors it is kept, so that the next run need not repeat finished tasks.
    """
    work = (Path(data_dir) / "work" / folder.name).absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutsideError(f"{work}: cannot be written ({problem_of(error)})") from error
    try:
        yield work
    except SettingError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


class _DroppedWriter:
    """Writes the dropped articles, one per line.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._file, "excel-tab")
        self._table.writerow(["title", "from", "why", "kept by", "begins"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, title: str, whence: str, reason: str, text: str) -> None:
        """Write an article's title, origin, reason, the override that would keep it, and its beginning."""
        begins = " ".join(text[: 2 * BEGINNING].split())[:BEGINNING]
        self._table.writerow([title, whence, reason, KEEPING[reason].format(characters=len(text)), begins])


class _SplitWriter:
    """Writes the articles of a split to an Arrow stream in batches, and counts them."""

    def __init__(self, path: Path) -> None:
        self.counts = {"articles": 0, "characters": 0, "bytes": 0}
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        self._pending: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._stream.close()
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        self.counts["articles"] += len(batch)
        self.counts["characters"] += pc.sum(pc.utf8_length(batch["text"]), min_count=0).as_py()
        self.counts["bytes"] += pc.sum(pc.binary_length(batch["text"]), min_count=0).as_py()
        room = BATCH - sum(map(len, self._pending))
        self._pending.append(batch[:room])
        if len(batch) >= room or sum(pending.nbytes for pending in self._pending) >= MAX_BATCH_BYTES:
            self._flush()
            self._pending.append(batch[room:])

    def _flush(self) -> None:
        if self._pending:
            self._stream.write_batch(pa.concat_batches(self._pending))
        self._pending.clear()
