"""Articles from a dataset of the Hugging Face hub, such as wikimedia/wikipedia, or from a copy of it on disk."""

import hashlib
import logging
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pyarrow
import pyarrow.parquet
from datasets import load_dataset
from huggingface_hub import HfApi

from minillm.corpus.article import Article
from minillm.corpus.ids import VALID, number_of
from minillm.corpus.sources.export import Left
from minillm.corpus.sources.left_out import LeftOut
from minillm.corpus.sources.source import Held
from minillm.errors import OutsideError, SettingError
from minillm.progress import track

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same dataset yields other articles
COLUMNS = ("id", "url", "title", "text")
LICENCE = "CC BY-SA 3.0"  # of all its articles, by the dataset's card
REVISION_TIMEOUT = 10.0  # seconds that the hub has to answer a request for a revision


@dataclass(frozen=True)
class HubSource:
    """The articles of a dataset with the columns id, url, title and text, in its order.

    Args:
        path: the dataset's name on the hub, or a folder of parquet files.
        config: the dataset's configuration: date and language; has no meaning for a folder.
        revision: the dataset's revision: a commit, tag or branch; None: the newest at the first reading. The commit is
            recorded, and a reading that goes on later keeps to it.
        streaming: fetch only as much as is read; otherwise the whole dataset is fetched once, and kept by `datasets`.

    Raises:
        SettingError: on use, a folder without parquet files, and columns that are missing.
        OutsideError: on use, a hub that cannot be reached.
    """

    path: str = "wikimedia/wikipedia"
    config: str | None = "20231101.es"
    streaming: bool = True
    revision: str | None = None
    name: ClassVar[str] = "hub"

    def describe(self) -> dict[str, Any]:
        """Return the dataset's name, and its revision where one is asked for; of a folder, the SHA-256 of each file."""
        if not self._folder:
            pinned = {"revision": self.revision} if self.revision else {}
            return {"version": VERSION, "path": self.path, "config": self.config, **pinned}
        files = {}
        for file in self._files():
            with file.open("rb") as content:
                files[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
        return {"version": VERSION, "files": files}

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles in the dataset's order; see `Source.articles`."""
        total, rows = self._rows(held)
        new = self.joined((self._outcome(row, held) for row in rows), limit, held)
        yield from track(new, "reading articles", total) if limit is None else new

    def pieces(self) -> list[Path]:
        """Return the parquet files of a folder; none of a dataset on the hub; see `InParts.pieces`."""
        if not self._folder:
            return []
        self._local_rows()
        return [file.absolute() for file in self._files()]

    def read(self, part: Path) -> Iterator[Article | Left]:
        """Yield an outcome for each row of a file; see `InParts.read`."""
        return map(self._outcome, self._read([part]))

    def joined(self, outcomes: Iterable[Article | Left], limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles, each id once; see `InParts.joined`."""
        yield from islice(self._joined(outcomes, held), limit)

    def _joined(self, outcomes: Iterable[Article | Left], held: Held) -> Iterator[Article]:
        left_out = LeftOut(self.path, "rows")
        for number, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Left):
                if outcome.problem:
                    left_out.add(f"{self.path}: row {number:,}", outcome.problem)
            elif outcome.page_id not in held:
                yield outcome
        left_out.sum_up()

    def _rows(self, held: Held) -> tuple[int | None, Iterator[dict[str, Any]]]:
        """Return the number of rows, if known, and the rows."""
        if self._folder:
            return self._local_rows()
        revision = self._commit(held)
        chosen = {"revision": revision} if revision else {}
        try:
            dataset = load_dataset(self.path, self.config, split="train", streaming=self.streaming, **chosen)
        except (OSError, ValueError, RuntimeError) as error:  # the errors of `datasets`, with and without a network
            problem = " ".join(str(error).split())[:200]
            advice = "is the name right and the network up? a folder of parquet files or data=sample works offline"
            raise OutsideError(f"{self.path} ({self.config}) cannot be had: {problem}; {advice}") from error
        self._check(dataset.column_names or COLUMNS)
        total = dataset.info.splits["train"].num_examples if dataset.info.splits else None
        return total, self._outside(iter(dataset))

    def _commit(self, held: Held) -> str | None:
        """Return the commit to read: that of the first reading, or the hub's current one; None: unknown."""
        if origin := held.get_meta("origin"):
            return str(origin["revision"])
        try:
            commit = HfApi().dataset_info(self.path, revision=self.revision, timeout=REVISION_TIMEOUT).sha
        except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
            log.warning(
                "the hub does not tell the revision of %s (%s): none is recorded", self.path, type(error).__name__
            )
            return self.revision
        held.set_meta("origin", {"dataset": self.path, "config": self.config, "revision": commit})
        return commit

    def _outside(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            yield from rows
        except (OSError, RuntimeError) as error:
            raise OutsideError(f"{self.path}: {' '.join(str(error).split())[:200]}") from error

    def _local_rows(self) -> tuple[int, Iterator[dict[str, Any]]]:
        files = self._files()
        try:
            schemas = [(file, pyarrow.parquet.read_metadata(file)) for file in files]
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unusable(f"cannot be read as Parquet ({error})") from error
        for _, metadata in schemas:
            self._check(metadata.schema.to_arrow_schema().names)
        return sum(metadata.num_rows for _, metadata in schemas), self._read(files)

    def _read(self, files: list[Path]) -> Iterator[dict[str, Any]]:
        for file in files:
            try:
                with pyarrow.parquet.ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=256, columns=list(COLUMNS)):
                        yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise self._unusable(f"{file} is damaged ({error})") from error

    @staticmethod
    def _outcome(row: dict[str, Any], held: Container[int] = ()) -> Article | Left:
        url, title, text = row["url"], row["title"], row["text"]
        if (page_id := number_of(row["id"])) is None:
            return Left("unusable", -1, problem=f"has no id {VALID}")
        if page_id in held:  # skipped by its id, without reading its text
            return Left("held", page_id)
        if not (isinstance(title, str) and isinstance(text, str) and isinstance(url or "", str)):
            return Left("unusable", page_id, problem="has a title, text or url that is no text")
        return Article(page_id, title, text, url=url or "", licence=LICENCE)

    def _check(self, columns: list[str] | tuple[str, ...]) -> None:
        if lacking := [column for column in COLUMNS if column not in columns]:
            advice = f"lacks {', '.join(lacking)}: a Wikipedia dataset has {', '.join(COLUMNS)}"
            raise self._unusable(f"{advice}; data=files reads other forms")

    @property
    def _folder(self) -> Path | None:
        """The folder, if the path is one: it exists, or cannot be a dataset's name."""
        path = Path(self.path).expanduser()
        return path if path.exists() or path.is_absolute() or self.path.startswith((".", "~")) else None

    def _files(self) -> list[Path]:
        folder = self._folder or Path()
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
        if not files:
            raise self._unusable("holds no .parquet file" if folder.exists() else "does not exist")
        return files

    def _unusable(self, advice: str) -> SettingError:
        return SettingError("data.source.path", self.path, advice)
