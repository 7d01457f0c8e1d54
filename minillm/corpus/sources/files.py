"""Articles from the user's own .txt, .jsonl and .parquet files."""

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pyarrow.parquet

from minillm.corpus.article import Article
from minillm.corpus.ids import VALID, number_of
from minillm.corpus.sources import cutting
from minillm.corpus.sources.cutting import Cut
from minillm.corpus.sources.export import Left
from minillm.corpus.sources.hash_set import HashSet
from minillm.corpus.sources.left_out import LeftOut
from minillm.corpus.sources.paths import files_at
from minillm.corpus.split import uniform
from minillm.errors import SettingError

SUFFIXES = (".txt", ".jsonl", ".parquet")
VERSION = 2  # raised when the same files yield other articles
LARGE = 100_000  # bytes; a longer .txt file is cut into articles: thirty pages of a book
PART = 4000  # approximate characters of an article that a long file is cut into: two pages
TOGETHER, BLOCKS = "together", "blocks"
PLACE = object()  # unlike any field name of a record
ONE = 1 - 2**-53  # the largest place


@dataclass(frozen=True)
class FilesSource:
    """Articles from a file, from all files under a folder, or from the files of a glob.

    A .txt file is one article, titled by the file's name, or it is cut into several; a line of a .jsonl file or a row
    of a .parquet file is one article, whose ``url``, ``timestamp`` and ``revision_id`` are read too where it has them.
    Text is UTF-8. Files are read in the order of their names; hidden ones and other kinds are left aside.

    An article's identity is its id and title together; its id and file where it has no title; its title and text where
    it has no id; its place in the folder where it is a .txt file. So the ids of several files may overlap, and adding
    files moves no article to another split. A record that comes twice is read twice and left to the duplicate filter.

    The articles that a file is cut into stand on one side of the split, that which the uncut file would: they share
    names and style, so that a model which knows one of them knows something of the next. One file alone cannot be
    split so; it is in blocks: its beginning is the training text, what follows validation, its end the test.

    Args:
        path: file, folder or glob (``texts/**/*.jsonl``).
        on_error: what becomes of a record that cannot be used (not UTF-8, not JSON, without text): "refuse" ends with
            an error that names file and line, "skip" leaves it out with a warning.
        text_field: field of a record that holds the text.
        title_field: field of a record that holds the title; records may lack it.
        id_field: field of a record that tells it from others; records may lack it.
        cut: where .txt files are cut into articles: "auto" (at headings, blank lines or line ends as soon as there are
            4,000 characters or, at a heading, 2,000; files over 100,000 bytes, and one that is alone), characters other
            than 4,000 (every file), "headings", "blank_lines", or None: a file is one article.
        parts: the split of the articles of one file: "together" (all on one side), "blocks" (the first ones train, the
            last ones test, in each file), or "auto" (blocks where there is but one file).

    Raises:
        SettingError: no path, an unknown on_error, cut or parts; on use also a path without articles, and a record that
            is refused.
    """

    path: str | None = None
    on_error: str = "refuse"
    text_field: str = "text"
    title_field: str = "title"
    id_field: str = "id"
    cut: str | int | None = "auto"
    parts: str = "auto"
    name: ClassVar[str] = "files"

    def __post_init__(self) -> None:
        if not self.path:
            raise SettingError("path", self.path, f"must name a file, a folder or a glob ({', '.join(SUFFIXES)})")
        if self.on_error not in ("refuse", "skip"):
            raise SettingError("on_error", self.on_error, "must be refuse or skip")
        if self.cut not in ("auto", None):
            Cut.at(self.cut)
        if self.parts not in ("auto", TOGETHER, BLOCKS):
            raise SettingError("parts", self.parts, f"must be auto, {TOGETHER} or {BLOCKS}")

    def describe(self) -> dict[str, Any]:
        """Return the settings with each file's name and SHA-256; reads the files once, at about a gigabyte per second.

        ``cut`` is there where a file is cut: where, how many files, and how their articles are split.
        """
        files, found = {}, self._files()
        for name, file in found.items():
            with self._reading(file), file.open("rb") as content:
                files[name] = hashlib.file_digest(content, "sha256").hexdigest()
        fields = {"text": self.text_field, "title": self.title_field, "id": self.id_field}
        described = {"version": VERSION, "on_error": self.on_error, "fields": fields, "files": files}
        if cut := [name for name, file in found.items() if self._cut(file, len(found))]:
            at = PART if self.cut == "auto" else self.cut
            parts = self._parts(len(found))
            described["cut"] = {"version": cutting.VERSION, "at": at, "files": len(cut), "parts": parts}
        return described

    def _cut(self, file: Path, files: int) -> Cut | None:
        """Return where a file is cut, given the number of files; None: nowhere."""
        if self.cut is None or file.suffix.lower() != ".txt":
            return None
        if self.cut == "auto":
            with self._reading(file):
                return Cut.at(PART) if file.stat().st_size > (PART if files == 1 else LARGE) else None
        return Cut.at(self.cut)

    def _parts(self, files: int) -> str:
        return self.parts if self.parts != "auto" else BLOCKS if files == 1 else TOGETHER

    def articles(self, limit: int | None, held: Container[int]) -> Iterator[Article]:
        """Yield the articles in the files' order; see `Source.articles`."""
        yield from self.joined(chain.from_iterable(map(self.read, self.pieces())), limit, held)

    def pieces(self) -> list[tuple[str, Path, int]]:
        """Return the files, each with its name and the number of files; see `InParts.pieces`."""
        files = self._files()
        return [(name, file.absolute(), len(files)) for name, file in files.items()]

    def read(self, part: tuple[str, Path, int]) -> Iterator[Article | Left]:
        """Yield an outcome for each record of a file; see `InParts.read`."""
        name, file, files = part
        for line, load in self._records(name, file, files):
            try:
                outcome: Article | Left = self._article(name, line, load())
            except (ValueError, RecursionError) as error:
                outcome = self._left(file, line, error)
            yield outcome

    def joined(self, outcomes: Iterable[Article | Left], limit: int | None, held: Container[int]) -> Iterator[Article]:
        """Yield the articles; a repeated identity is replaced by another one; see `InParts.joined`."""
        new = (article for article in self._each_itself(outcomes) if article.page_id not in held)
        yield from islice(new, limit)

    def _each_itself(self, outcomes: Iterable[Article | Left]) -> Iterator[Article]:
        seen, repeats = HashSet(), Counter[int]()
        left_out = LeftOut(self.path)
        for outcome in outcomes:
            if isinstance(outcome, Left):
                left_out.add(outcome.name, outcome.problem)
                continue
            if not seen.add(outcome.page_id):
                repeats[outcome.page_id] += 1
                outcome = replace(outcome, page_id=_identity(outcome.page_id, repeats[outcome.page_id]))
            yield outcome
        left_out.sum_up()

    def _records(self, name: str, file: Path, files: int) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield the line (or row) of each record in a file and a function that loads it or raises ValueError."""
        kind = file.suffix.lower()
        with self._reading(file):
            if kind == ".txt":
                if cut := self._cut(file, files):
                    yield from self._cut_records(name, file, cut, self._parts(files))
                else:
                    fields = {self.title_field: file.stem, self.id_field: name}
                    yield 1, functools.partial(self._plain, file.read_bytes(), fields)
            elif kind == ".jsonl":
                with file.open("rb") as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield number, functools.partial(_parse, line)
            else:
                yield from self._rows(file)

    def _cut_records(self, name: str, file: Path, cut: Cut, parts: str) -> Iterator[tuple[int, Callable[[], Any]]]:
        size, number = file.stat().st_size, 0
        together = uniform("split", _identity(name, file.stem))  # the split of the uncut file
        with file.open("rb") as content:
            for number, part in enumerate(cut.parts(content), 1):
                fields = {self.title_field: f"{file.stem} ({number})", self.id_field: f"{name}#{number}"}
                # A file that grows while it is read has parts after its former end.
                place = together if parts == TOGETHER else min(part.middle / max(1, size), ONE)
                yield part.line, functools.partial(self._plain, part.content, {**fields, PLACE: place})
        if not number:
            yield 1, functools.partial(self._plain, b"", {})

    def _plain(self, content: bytes, fields: dict[Any, Any]) -> dict[Any, Any]:
        return {self.text_field: content.decode("utf-8-sig"), **fields}

    def _rows(self, file: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
        wanted = {self.text_field, self.title_field, self.id_field, "url", "timestamp", "revision_id"}
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                columns = [column for column in table.schema_arrow.names if column in wanted]
                for batch in table.iter_batches(batch_size=256, columns=columns):
                    for row in range(len(batch)):
                        number += 1
                        yield number, functools.partial(_row, batch, row)
        except (pyarrow.ArrowException, OSError) as error:
            yield number + 1, functools.partial(_fail, f"cannot be read as Parquet ({error})")

    def _article(self, name: str, line: int, record: Any) -> Article:
        if not isinstance(record, dict):
            raise ValueError("is no JSON object")
        text, title, key = (record.get(field) for field in (self.text_field, self.title_field, self.id_field))
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"has no text in its field {self.text_field!r}")
        title, url, timestamp = (str(value or "") for value in (title, record.get("url"), record.get("timestamp")))
        if any("\ud800" <= char <= "\udfff" for char in set(title + text + url + timestamp)):
            raise ValueError("is not Unicode (half of a surrogate pair)")
        revision_id = record.get("revision_id")
        if isinstance(revision_id, int) and number_of(revision_id) is None:  # true and false are integers in Python
            raise ValueError(f"has a revision_id that is no number {VALID}")
        return Article(
            page_id=_identity(title, text) if key is None else _identity(str(key), title or name),
            title=title or f"{name}:{line}",
            text=text,
            revision_id=revision_id if isinstance(revision_id, int) else 0,
            url=url,
            timestamp=timestamp,
            whence=f"{name}:{line}",
            place=record.get(PLACE),
        )

    def _left(self, file: Path, line: int, error: Exception) -> Left:
        """Return why a record cannot be used."""
        problem = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnicodeDecodeError):
            line += error.object.count(b"\n", 0, error.start)
            problem = f"is not UTF-8 (byte 0x{error.object[error.start]:02x})"
        if self.on_error == "refuse":
            advice = "mend it, or leave such records out with data.source.on_error=skip"
            raise self._unusable(f"{file}:{line} {problem}; {advice}") from error
        return Left("unusable", -1, f"{file}:{line}", problem)

    def _files(self) -> dict[str, Path]:
        """Return the files by their names within the folder, sorted by name."""
        found = files_at(self.path or "")
        if found is None:
            raise self._unusable("does not exist; name a file, a folder or a glob")
        files = {name: file for name, file in found.items() if file.suffix.lower() in SUFFIXES}
        if not files:
            raise self._unusable(f"holds no article: there is no {' or '.join(SUFFIXES)} file")
        return dict(sorted(files.items()))

    @contextlib.contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(f"{file} cannot be read ({error.strerror or error})") from error

    def _unusable(self, advice: str) -> SettingError:
        return SettingError("data.source.path", self.path, advice)


def _identity(*parts: str | int) -> int:
    """Return 63 bits of the SHA-256 of the parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


def _parse(line: bytes) -> Any:
    text = line.decode("utf-8-sig")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error


def _row(batch: pyarrow.RecordBatch, row: int) -> dict[str, Any]:
    try:
        return {column: batch.column(column)[row].as_py() for column in batch.schema.names}
    except UnicodeDecodeError:
        raise
    except Exception as error:  # invalid times and unknown time zones raise different errors
        raise ValueError(f"has a value that cannot be read ({error})") from error


def _fail(problem: str) -> None:
    raise ValueError(problem)
