"""The raw store: a source's unchanged articles, in one SQLite file.

It is a cache (no article is fetched twice), a resume point (each article is committed at once, so a killed process
loses no article that it had added) and an integrity check (each article has a SHA-256 of its text, and each row one of
all its columns).
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

VERSION = 2  # increased when the schema changes
SCHEMA = """
CREATE TABLE IF NOT EXISTS articles (
    position INTEGER PRIMARY KEY, page_id INTEGER NOT NULL UNIQUE, revision_id INTEGER NOT NULL,
    title TEXT NOT NULL, url TEXT NOT NULL, timestamp TEXT NOT NULL, licence TEXT NOT NULL,
    wikitext_sha256 TEXT NOT NULL, sha256 TEXT NOT NULL, seal TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS origins (page_id INTEGER PRIMARY KEY, whence TEXT NOT NULL, place REAL);
"""  # the text is the last column, so that reading the others skips its pages
# A substitute for the table of origins, which older stores do not have.
NO_ORIGINS = "(SELECT 0 AS page_id, '' AS whence, NULL AS place WHERE 0)"
NO_LOCKS = "win32-none" if os.name == "nt" else "unix-none"  # SQLite's name for a system without locks
COLUMNS = ("page_id", "revision_id", "title", "url", "timestamp", "licence", "wikitext_sha256", "sha256")


class DamagedStoreError(OutsideError):
    """The file as a whole is damaged, and its articles cannot be read."""


class RawStore:
    """The articles of a source, in order of arrival, with unique page ids.

    Several processes can open the same file; `minillm.corpus.Corpus` lets one write at a time. On a network file system
    only one process can open it, since SQLite cannot reliably share a file between machines.

    Args:
        path: the SQLite file; created with its folders if it does not exist.
        read_only: open an existing file without writing anything, not even a lock, since its disk may be read-only.

    Raises:
        DamagedStoreError: (here and in every method) the file is damaged, or not a raw store.
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
            # Without an isolation level each statement is committed; in WAL mode a commit survives the process.
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.text_factory = _decode
            if network_disk(self.path):
                # WAL needs shared memory, which does not work over a network: only one process opens the file.
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
        """Commit an article; return False, without a change, if its page id is in the store."""
        columns = ", ".join(COLUMNS)
        return self._write(f"INSERT OR IGNORE INTO articles ({columns}, seal, text) VALUES ({_marks(10)})", article)

    def replace(self, article: Article) -> bool:
        """Replace the article with this page id; return False if there is none."""
        columns = ", ".join(COLUMNS)
        return self._write(
            f"UPDATE articles SET ({columns}, seal, text) = ({_marks(10)}) WHERE page_id = {article.page_id}", article
        )

    def remove(self, page_id: int) -> bool:
        """Remove an article; return False if it is not in the store."""
        with self._faults():
            return self._connection.execute("DELETE FROM articles WHERE page_id=?", (page_id,)).rowcount == 1

    def __len__(self) -> int:
        with self._faults():
            return int(self._connection.execute("SELECT COUNT(*) FROM articles").fetchone()[0])

    @property
    def size(self) -> int:
        """Size of the file in bytes, about that of the texts."""
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
            OutsideError: also if an article is damaged; the error names it.
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
        """Yield the page ids of all articles, in any order."""
        with self._faults():
            for (page_id,) in self._connection.execute("SELECT page_id FROM articles WHERE typeof(page_id)='integer'"):
                yield page_id

    def damaged(self) -> dict[int, str]:
        """Return page ids and titles of the damaged articles, in order of arrival."""
        return {article.page_id: article.title for article, whole in self._read() if not whole}

    def without(self, page_ids: Container[int]) -> "StoreWithout":
        """Return a view of the store without some of its articles."""
        return StoreWithout(self, page_ids)

    def digest(self, limit: int | None = None) -> str:
        """Return one hexadecimal SHA-256 of the first ``limit`` articles (None: all), in their order."""
        digest = hashlib.sha256()
        with self._faults():
            for *row, place in self._connection.execute(
                f"SELECT {', '.join(COLUMNS)}, place FROM {self._articles} ORDER BY position LIMIT ?",
                (-1 if limit is None else limit,),
            ):
                digest.update(json.dumps(row if place is None else [*row, place], default=str).encode())
        return digest.hexdigest()

    def texts(self, number: int, limit: int | None = None) -> Iterator[str]:
        """Yield at most ``number`` evenly spaced texts, without checking for damage.

        Args:
            number: maximum number of texts.
            limit: use only this many first articles; None: all.
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
        """Return the value of a key, or the default."""
        with self._faults():
            row = self._connection.execute("SELECT value, seal FROM meta WHERE key=?", (key,)).fetchone()
            if row is None:
                return default
            if _seal(key, row[0]) != row[1]:
                raise sqlite3.DatabaseError(f"the value of {key} is damaged")
            return json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """Store a JSON value under a key."""
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
        """Yield each article and whether it is undamaged."""
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
        except sqlite3.OperationalError as error:  # locked, full or unreadable, but perhaps undamaged
            raise OutsideError(f"{self.path}: cannot be used ({error})") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            problem = " ".join(str(error).split())
            raise DamagedStoreError(f"{self.path}: is damaged or no raw store ({problem})") from error
        except OSError as error:
            raise OutsideError(f"{self.path}: cannot be opened ({error.strerror})") from error


@dataclass(frozen=True)
class StoreWithout:
    """A view of a store without some of its articles, with which a source yields these again."""

    store: RawStore
    absent: Container[int]

    def __contains__(self, page_id: object) -> bool:
        return page_id not in self.absent and page_id in self.store

    @property
    def folder(self) -> Path:
        """The folder of the store's file."""
        return self.store.folder

    def page_ids(self) -> Iterator[int]:
        """Yield the page ids of the other articles, in any order."""
        return (page_id for page_id in self.store.page_ids() if page_id not in self.absent)

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return self.store.get_meta(key, default)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a JSON value under a key."""
        self.store.set_meta(key, value)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and SQLite's files beside it, to an unused name; return that name.

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

    In WAL mode, readers share memory in a file beside the database. If that file cannot be created, no other process
    writes. The database is then read as it is, or with the WAL of a killed process, which SQLite can read without the
    shared memory if it does not lock anything.
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
    """Return an article's place in its source, for its checksum; () if it is unknown."""
    return (whence, place) if whence or place is not None else ()


def _marks(number: int) -> str:
    return ", ".join("?" * number)


def _seal(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()
