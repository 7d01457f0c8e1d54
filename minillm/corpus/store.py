"""The raw store: a source's articles as they came, in one SQLite file.

It is three things in one: the cache (what is in it is never fetched twice), the resume point (each article is committed
at once, so a process killed at any moment loses nothing that it had added) and the integrity check (each article
carries the SHA-256 of its text, and each row one of all that is in it).
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from minillm.corpus.article import Article
from minillm.errors import OutsideError
from minillm.files import network_disk

VERSION = 2  # raised when the schema changes
SCHEMA = """
CREATE TABLE IF NOT EXISTS articles (
    position INTEGER PRIMARY KEY, page_id INTEGER NOT NULL UNIQUE, revision_id INTEGER NOT NULL,
    title TEXT NOT NULL, url TEXT NOT NULL, timestamp TEXT NOT NULL, licence TEXT NOT NULL,
    wikitext_sha256 TEXT NOT NULL, sha256 TEXT NOT NULL, seal TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS origins (page_id INTEGER PRIMARY KEY, whence TEXT NOT NULL, place REAL);
"""  # the text comes last: reading the columns before it skips the pages that it fills
# Where articles stand in their source, of sources that say so; a store that is older has no such table.
NO_ORIGINS = "(SELECT 0 AS page_id, '' AS whence, NULL AS place WHERE 0)"
NO_LOCKS = "win32-none" if os.name == "nt" else "unix-none"  # SQLite's name for a system without locks
COLUMNS = ("page_id", "revision_id", "title", "url", "timestamp", "licence", "wikitext_sha256", "sha256")


class DamagedStoreError(OutsideError):
    """The file as a whole is not what was written; its articles cannot be told apart any more."""


class RawStore:
    """Articles of one source, in order of arrival, each held once by its page_id.

    Several processes may open the same file; `minillm.corpus.Corpus` lets one write at a time. On a disk over a network
    one process alone may, and the others are refused: SQLite cannot be trusted to share a file between machines.

    Args:
        path: the SQLite file; made, with its folders, where there is none.
        read_only: open a file that is there and write nothing, not even a lock: its disk may be read-only.

    Raises:
        DamagedStoreError: (here and in every method) the file is damaged, or is no raw store.
        OutsideError: (here and in every method) the file cannot be used.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        with self._faults():
            self._articles = "articles LEFT JOIN origins USING (page_id)"
            if read_only:
                self._connection = _connect_read_only(self.path)
                known = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name='origins'").fetchone()
                self._articles = self._articles if known else f"articles LEFT JOIN {NO_ORIGINS} USING (page_id)"
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without isolation level each statement commits itself; in WAL mode a commit survives the process.
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.text_factory = _decode
            if network_disk(self.path):
                # WAL needs memory that all who open the file share: over a network there is none. One process has it.
                self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                self._connection.execute("PRAGMA journal_mode=DELETE")
            else:
                self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, article: Article) -> bool:
        """Commit an article; return False, and change nothing, where its page_id is held already."""
        columns = ", ".join(COLUMNS)
        return self._write(f"INSERT OR IGNORE INTO articles ({columns}, seal, text) VALUES ({_marks(10)})", article)

    def replace(self, article: Article) -> bool:
        """Put a newly fetched article in the place of the held one; return False where its page_id is not held."""
        columns = ", ".join(COLUMNS)
        return self._write(
            f"UPDATE articles SET ({columns}, seal, text) = ({_marks(10)}) WHERE page_id = {article.page_id}", article
        )

    def remove(self, page_id: int) -> bool:
        """Remove an article; return False where it is not held."""
        with self._faults():
            return self._connection.execute("DELETE FROM articles WHERE page_id=?", (page_id,)).rowcount == 1

    def __len__(self) -> int:
        with self._faults():
            return int(self._connection.execute("SELECT COUNT(*) FROM articles").fetchone()[0])

    @property
    def size(self) -> int:
        """Bytes that the articles take on disk, about those of their texts."""
        with self._faults():
            pages, size = (self._connection.execute(f"PRAGMA page_{of}").fetchone()[0] for of in ("count", "size"))
        return int(pages * size)

    def __contains__(self, page_id: object) -> bool:
        with self._faults():
            row = self._connection.execute("SELECT 1 FROM articles WHERE page_id=?", (page_id,)).fetchone()
            return row is not None

    def __iter__(self) -> Iterator[Article]:
        """Yield the articles in order of arrival.

        Raises:
            OutsideError: also where an article is not as it was added; names it.
        """
        for article, whole in self._read():
            if not whole:
                raise OutsideError(
                    f"{self.path}: article {article.page_id} ({article.title}) is damaged: "
                    "run again to have it fetched again"
                )
            yield article

    @property
    def folder(self) -> Path:
        """The folder that the file is in."""
        return self.path.parent

    def page_ids(self) -> Iterator[int]:
        """Yield the page_ids of all articles, in any order."""
        with self._faults():
            for (page_id,) in self._connection.execute("SELECT page_id FROM articles WHERE typeof(page_id)='integer'"):
                yield page_id

    def damaged(self) -> dict[int, str]:
        """Return page_id and title of the articles that are not as they were added, in order of arrival."""
        return {article.page_id: article.title for article, whole in self._read() if not whole}

    def without(self, page_ids: Container[int]) -> "StoreWithout":
        """Return the store as it would be without some of its articles."""
        return StoreWithout(self, page_ids)

    def digest(self, limit: int | None = None) -> str:
        """Return one SHA-256, in hexadecimal, for the first articles (all where limit is None) and their order."""
        digest = hashlib.sha256()
        with self._faults():
            for *row, place in self._connection.execute(
                f"SELECT {', '.join(COLUMNS)}, place FROM {self._articles} ORDER BY position LIMIT ?",
                (-1 if limit is None else limit,),
            ):
                digest.update(json.dumps(row if place is None else [*row, place], default=str).encode())
        return digest.hexdigest()

    def texts(self, number: int, limit: int | None = None) -> Iterator[str]:
        """Yield the texts of so many articles at most, evenly over the first ones; without looking for damage.

        Args:
            number: how many.
            limit: of how many first articles; None: of all.
        """
        with self._faults():
            positions = "SELECT position FROM articles ORDER BY position"
            size = len(self) if limit is None else min(limit, len(self))
            last = self._connection.execute(f"{positions} LIMIT 1 OFFSET ?", (max(0, size - 1),)).fetchone()
            step = -(-size // number)
            for (text,) in (
                self._connection.execute(
                    "SELECT text FROM articles WHERE position <= ?1 AND position % ?2 = 1 % ?2 ORDER BY position",
                    (last[0], step),
                )
                if last
                else ()
            ):
                yield text

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value kept under a key, or the default."""
        with self._faults():
            row = self._connection.execute("SELECT value, seal FROM meta WHERE key=?", (key,)).fetchone()
            if row is None:
                return default
            if _seal(key, row[0]) != row[1]:
                raise sqlite3.DatabaseError(f"what it keeps under {key} is damaged")
            return json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a plain JSON value under a key."""
        text = json.dumps(value)
        with self._faults():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, text, _seal(key, text)))

    def _write(self, statement: str, article: Article) -> bool:
        row = tuple(getattr(article, column) for column in COLUMNS)
        origin = _origin(article.whence, article.place)
        values = (*row, _seal(*row, *origin), article.text)
        with self._faults():
            if not origin:
                return self._connection.execute(statement, values).rowcount == 1
            with self._connection:  # both or neither
                self._connection.execute("BEGIN")
                written = self._connection.execute(statement, values).rowcount == 1
                if written:
                    place = (article.page_id, article.whence, article.place)
                    self._connection.execute("INSERT OR REPLACE INTO origins VALUES (?, ?, ?)", place)
            return written

    def _read(self) -> Iterator[tuple[Article, bool]]:
        """Yield each article and whether it is still as it was added."""
        with self._faults():
            problem = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            for key in self._connection.execute("SELECT key FROM meta").fetchall():
                self.get_meta(*key)
            for *row, whence, place, seal, text in self._connection.execute(
                f"SELECT {', '.join(COLUMNS)}, whence, place, seal, CAST(text AS BLOB) FROM {self._articles} "
                "ORDER BY position"
            ):
                fields = dict(zip(COLUMNS, row, strict=True))
                sha256 = fields.pop("sha256")
                article = Article(text=text.decode("utf-8", "replace"), whence=whence or "", place=place, **fields)
                whole = hashlib.sha256(text).hexdigest() == sha256
                yield article, whole and seal == _seal(*row, *_origin(whence, place))

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, unreadable: the file itself may be fine
            raise OutsideError(f"{self.path}: cannot be used ({error})") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            problem = " ".join(str(error).split())
            raise DamagedStoreError(f"{self.path}: is damaged or no raw store ({problem})") from error
        except OSError as error:
            raise OutsideError(f"{self.path}: cannot be opened ({error.strerror})") from error


@dataclass(frozen=True)
class StoreWithout:
    """A store as it would be without some of its articles: a source asked on top of it yields these again."""

    store: RawStore
    absent: Container[int]

    def __contains__(self, page_id: object) -> bool:
        return page_id not in self.absent and page_id in self.store

    @property
    def folder(self) -> Path:
        """The folder that the store's file is in."""
        return self.store.folder

    def page_ids(self) -> Iterator[int]:
        """Yield the page_ids of the other articles, in any order."""
        return (page_id for page_id in self.store.page_ids() if page_id not in self.absent)

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value kept under a key, or the default."""
        return self.store.get_meta(key, default)

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a plain JSON value under a key."""
        self.store.set_meta(key, value)


def set_aside(path: Path) -> Path:
    """Give a damaged file, and what SQLite keeps beside it, a name that is not in use yet; return that name.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = next(name for number in count(1) if not (name := path.with_suffix(f".damaged-{number}")).exists())
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing.

    In WAL mode readers share memory in a file beside the database. Where that cannot be made nobody else writes: the
    database stands as it is, or with what a killed process left in its WAL, which SQLite can read without the shared
    memory if it need not lock anything.
    """
    killed = path.with_name(f"{path.name}-wal").exists()
    alone = (f"mode=ro&vfs={NO_LOCKS}", "locking_mode=EXCLUSIVE") if killed else ("immutable=1", "query_only=1")
    for options, pragma in ("mode=ro", "query_only=1"), alone:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{options}", uri=True, timeout=60)
        connection.text_factory = _decode
        try:
            connection.execute(f"PRAGMA {pragma}")
            connection.execute("SELECT 1 FROM meta").fetchone()
        except sqlite3.OperationalError as error:
            problem = error
            connection.close()
        else:
            return connection
    raise problem


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # damage is found by SHA-256


def _origin(whence: str | None, place: float | None) -> tuple[str | float | None, ...]:
    """Return where an article stands in its source, as its seal covers it; nothing where its source does not say."""
    return (whence, place) if whence or place is not None else ()


def _marks(number: int) -> str:
    return ", ".join("?" * number)


def _seal(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()
