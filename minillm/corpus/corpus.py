"""The corpus: articles from a source, stored, cleaned, filtered and split, once."""

import contextlib
import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
from datasets import Dataset

from minillm.corpus import cleaning, duplicates, quality, split, store
from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.duplicates import DuplicateFilter, Sketch
from minillm.corpus.fingerprint import fingerprint
from minillm.corpus.lock import LockWriter
from minillm.corpus.quality import QualityFilter
from minillm.corpus.sources import Source
from minillm.corpus.split import SPLITS, check_shares, split_of
from minillm.corpus.store import DamagedStoreError, RawStore, set_aside
from minillm.errors import OutsideError, SettingError
from minillm.files import is_whole, locked, problem_of, written_whole
from minillm.parallel import batches, cores, in_order
from minillm.progress import track

log = logging.getLogger(__name__)

VERSION = 3  # raised when the prepared folder changes its form
BLAMED = {  # why an article is dropped, in the order of the checks: the setting behind it and what would do
    "redirect": ("quality.redirects", "false keeps them"),
    "disambiguation": ("quality.disambiguations", "false keeps them"),
    "list": ("quality.lists", "false keeps them"),
    "not Spanish": ("quality.language", "null keeps them"),
    "too short": ("min_length", "lower it"),
    "exact duplicate": ("duplicates.exact", "false keeps them"),
    "near duplicate": ("duplicates.near", "false keeps them"),
}
SCHEMA = pa.schema(
    [("page_id", pa.int64()), ("revision_id", pa.int64())]
    + [(name, pa.string()) for name in ("title", "url", "timestamp", "licence", "text")]
)
ATTRIBUTION, LOCK = "ATTRIBUTION.tsv", "corpus.lock.json"
BATCH = 256  # articles written at a time: bounds the memory
SHARED = 64  # articles that a process examines at a time
ALONE = 8_000_000  # characters, four seconds of work, that are examined before it is worth starting processes


@dataclass(frozen=True)
class Corpus:
    """The articles of a source, cleaned, without those not worth learning from, split into train, val and test.

    The work is done once: the articles as they came are in ``data_dir/raw``, the prepared ones in
    ``data_dir/corpus/<fingerprint>``, and whoever asks for the same corpus again finds them there. Several processes
    may ask at the same time.

    Args:
        source: where the articles come from.
        cleaner: the cleaning chain.
        quality: what is not worth learning from.
        duplicates: what counts as a duplicate.
        min_length: articles with fewer characters after cleaning are dropped.
        num_articles: how many articles to read, counted before any is dropped; None for all that the source has.
        split: the parts of the articles that train, val and test get.
        data_dir: folder for everything that is kept.

    Raises:
        SettingError: a value that cannot work; on use also settings that leave a split without articles, and a
            data_dir that cannot be written.
        OutsideError: on use, a fault of the source or the disk; articles read so far stay in the raw store.
    """

    source: Source
    data_dir: str | Path
    cleaner: Cleaner = field(default_factory=Cleaner)
    quality: QualityFilter = field(default_factory=QualityFilter)
    duplicates: DuplicateFilter = field(default_factory=DuplicateFilter)
    min_length: int = 500
    num_articles: int | None = 1000
    split: Sequence[float] = (0.7, 0.15, 0.15)

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", check_shares(self.split))
        if self.min_length < 0:
            raise SettingError("min_length", self.min_length, "must be at least 0 characters, such as 500")
        if self.num_articles is not None and self.num_articles < 1:
            raise SettingError("num_articles", self.num_articles, "must be at least 1, or null for all articles")

    def prepare(self) -> Path:
        """Do the work, unless it is done already, and return the folder of the prepared corpus."""
        return self._folder

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that stand for the articles read and all that was done to them."""
        return self._folder.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the corpus was made from and what came out: plain JSON values.

        ``source``, ``settings`` and ``versions`` (of the code of the stages) decide the result. ``reading`` tells what
        the source was asked for, gave, and had to do for it; ``funnel`` counts the articles read, dropped for each
        reason, and kept; ``cleaning`` the characters that each step removed from the articles read; ``splits`` the
        articles, characters and UTF-8 bytes in each split.
        """
        return dict(json.loads((self._folder / "manifest.json").read_text(encoding="utf-8")))

    def articles(self, split: str) -> Dataset:
        """Return the articles of a split, memory-mapped from disk, their text cleaned.

        Args:
            split: train, val or test.
        """
        if split not in SPLITS:
            raise SettingError("split", split, f"must be one of {', '.join(SPLITS)}")
        file = self._folder / f"{split}.arrow"
        try:
            return Dataset.from_file(str(file))
        except (OSError, pa.ArrowException) as error:
            raise OutsideError(f"{file}: cannot be read ({error}); remove its folder to have it made again") from error

    @cached_property
    def _folder(self) -> Path:
        source = self.source.describe()
        name = f"{self.source.name}-{fingerprint({**source, 'store': store.VERSION})}.sqlite"
        raw = Path(self.data_dir) / "raw" / name
        try:
            lock = locked(raw)
        except OSError as error:
            return self._found(raw, source, error)
        with lock:
            try:
                return self._made(raw, source)
            except DamagedStoreError as error:
                log.warning("%s: set aside as %s, and its articles are fetched again", error, set_aside(raw).name)
                return self._made(raw, source)

    def _found(self, raw: Path, source: dict[str, Any], problem: OSError) -> Path:
        """Return the folder of the prepared corpus where nothing can be written.

        Raises:
            SettingError: it is not there.
        """
        if os.access(raw, os.R_OK):
            with RawStore(raw, read_only=True) as store:
                folder = self._folder_of(self._made_from(store, source))
                if self._wanted(store) == 0 and is_whole(folder):
                    return folder
        advice = f"cannot be written: {problem_of(problem)}"
        raise SettingError("paths.data_dir", self.data_dir, advice) from problem

    def _made(self, raw: Path, source: dict[str, Any]) -> Path:
        """Return the folder of the prepared corpus, made if need be."""
        with RawStore(raw) as store:
            made_from = self._made_from(store, source)
            if self._wanted(store) == 0 and is_whole(folder := self._folder_of(made_from)):
                return folder
            self._mend(store)
            self._read(store, source)
            made_from = self._made_from(store, source)
            folder = self._folder_of(made_from)
            if not is_whole(folder):
                try:
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    with written_whole(folder, folder=True) as unfinished:
                        self._write(store, unfinished, {"fingerprint": folder.name, **made_from})
                except OSError as error:
                    raise OutsideError(f"{folder}: cannot be written ({problem_of(error)})") from error
        return folder

    def _made_from(self, store: RawStore, source: dict[str, Any]) -> dict[str, Any]:
        """Return everything that decides what the prepared corpus holds."""
        return {
            "source": {"name": self.source.name, **source},
            "articles": store.digest(self.num_articles),
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
        }

    def _folder_of(self, made_from: dict[str, Any]) -> Path:
        return Path(self.data_dir) / "corpus" / fingerprint(made_from)

    def _wanted(self, store: RawStore) -> int | None:
        """Return how many articles are still to be read; None for all that the source has."""
        if store.get_meta("complete"):
            return 0
        return None if self.num_articles is None else max(0, self.num_articles - len(store))

    def _mend(self, store: RawStore) -> None:
        """Fetch damaged articles again, each into its place."""
        damaged = store.damaged()
        for page_id, title in damaged.items():
            log.warning("%s: article %d (%s) is damaged and is fetched again", store.path, page_id, title)
        if damaged:
            for article in self.source.articles(len(damaged), store.without(damaged)):
                store.replace(article) or store.add(article)
        for page_id, title in store.damaged().items() if damaged else ():
            log.warning("%s: article %d (%s) cannot be had any more and is left out", store.path, page_id, title)
            store.remove(page_id)

    def _read(self, store: RawStore, source: dict[str, Any]) -> None:
        """Bring the store up to the number of articles wanted, or to all there are."""
        held, wanted = len(store), self._wanted(store)
        if wanted == 0:
            return
        store.set_meta("source", source)
        articles = self.source.articles(wanted, store)
        try:
            # A source that is read to its end shows how far it is; there is no number of articles to go by.
            for article in articles if wanted is None else track(articles, "reading articles", wanted):
                store.add(article)
        except DamagedStoreError:
            raise
        except OutsideError as error:
            if not len(store):
                raise
            advice = f"the {len(store):,} articles read so far are safe: run the same command again to go on"
            raise OutsideError(f"{error}; {advice}") from error
        if wanted is None or len(store) - held < wanted:
            store.set_meta("complete", True)  # the source has no more: nobody needs to ask again

    def _write(self, store: RawStore, folder: Path, made_from: dict[str, Any]) -> None:
        """Write the three splits, who wrote their articles, the lock of all that was read, and the manifest."""
        read = len(store) if self.num_articles is None else min(len(store), self.num_articles)
        dropped: Counter[str] = Counter()
        removed: Counter[str] = Counter()
        longest = 0
        seen = self.duplicates.start()
        with contextlib.ExitStack() as files:
            writers = {name: files.enter_context(_SplitWriter(folder / f"{name}.arrow")) for name in SPLITS}
            lock = files.enter_context(LockWriter(folder / LOCK))
            attribution = files.enter_context((folder / ATTRIBUTION).open("w", encoding="utf-8", newline=""))
            table = csv.writer(attribution, "excel-tab")
            table.writerow(("title", "url", "revision_id", "licence"))
            articles = track(islice(store, read), "preparing articles", read)
            for article, (text, shorter, reason, sketch) in self._examined(articles):
                lock.add(article)
                removed.update(shorter)
                longest = max(longest, len(text))
                reason = seen.reason(sketch) if sketch else reason
                if reason:
                    dropped[reason] += 1
                else:
                    writers[split_of(article.page_id, self.split)].add(article, text)
                    table.writerow((article.title, article.url, article.revision_id, article.licence))
        splits = {name: writer.counts for name, writer in writers.items()}
        kept = sum(counts["articles"] for counts in splits.values())
        funnel = {"read": read, **{reason: dropped[reason] for reason in BLAMED}, "kept": kept}
        empty = [name for name, share in zip(SPLITS, self.split, strict=True) if share and not splits[name]["articles"]]
        if empty:
            raise self._too_few(funnel, " and ".join(empty), longest)
        reading = {"requested": self.num_articles, "fetched": len(store), **store.get_meta("counts", {})}
        manifest = {**made_from, "reading": reading, "funnel": funnel, "cleaning": dict(removed), "splits": splits}
        (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")

    def _examined(self, articles: Iterator[Article]) -> Iterator[tuple[Article, "_Examined"]]:
        """Yield each article with what is found out about it alone, in order; in a large corpus on all cores."""
        examine = partial(_examine, self.cleaner, self.quality, self.duplicates, self.min_length)
        shares = batches(articles, SHARED)
        characters = 0
        while characters < ALONE and (share := next(shares, None)):
            yield from zip(share, examine(share), strict=True)
            characters += sum(len(article.text) for article in share)
        yield from in_order(examine, shares, cores())

    def _too_few(self, funnel: dict[str, int], empty: str, longest: int) -> SettingError:
        """Return the error for splits without articles; it blames the setting that did most to it."""
        read, kept = funnel["read"], funnel["kept"]
        if not read:
            return SettingError("data.source", self.source.name, "has no article to read")
        reason = max(BLAMED, key=lambda reason: funnel[reason])
        leaves = f"leaves too few articles, {kept:,} of {read:,}" if kept else f"leaves no article of {read:,}"
        if funnel[reason] > kept:
            setting, remedy = BLAMED[reason]
            cause = f"{funnel[reason]:,} dropped: {reason}"
            if reason == "too short":
                cause = f"the longest has {longest:,} characters"
            return SettingError(f"data.{setting}", attrgetter(setting)(self), f"{leaves} ({cause}); {remedy}")
        if self.num_articles == read:
            return SettingError("data.num_articles", read, f"{leaves}, none of them in {empty}; raise it")
        return SettingError("data.split", list(self.split), f"{leaves}, none of them in {empty}; give it more articles")


class _Examined(NamedTuple):
    """An article's clean text, how much shorter each step made it, and why it is dropped, or else its sketch."""

    text: str
    shorter: dict[str, int]
    reason: str | None
    sketch: Sketch | None


def _examine(
    cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int, articles: list[Article]
) -> list[_Examined]:
    examined = []
    for article in articles:
        text, shorter = cleaner.clean(article.text)
        reason = quality.reason(article.title, article.text, text)
        reason = reason or ("too short" if len(text) < min_length else None)
        examined.append(_Examined(text, shorter, reason, None if reason else duplicates.sketch(text)))
    return examined


class _SplitWriter:
    """Writes the articles of one split to an Arrow stream, some at a time, and counts them."""

    def __init__(self, path: Path) -> None:
        self.counts = {"articles": 0, "characters": 0, "bytes": 0}
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._stream.close()
        self._file.close()

    def add(self, article: Article, text: str) -> None:
        self._rows.append({**{name: getattr(article, name) for name in SCHEMA.names}, "text": text})
        for name, amount in ("articles", 1), ("characters", len(text)), ("bytes", len(text.encode())):
            self.counts[name] += amount
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
        self._rows.clear()
