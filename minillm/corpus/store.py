"""The raw store: a source's articles as they came, in one SQLite file.

It is three things in one: the cache (what is in it is never fetched twice), the resume point (each article is committed
at once, so a process killed at any moment loses nothing that it had added) and the integrity check (each article
carries the SHA-256 of its text).
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from minillm.corpus.article import Article
from minillm.errors import OutsideError

SCHEMA = """
CREATE TABLE IF NOT EXISTS articles (
    position INTEGER PRIMARY KEY, page_id INTEGER NOT NULL UNIQUE, revision_id INTEGER NOT NULL,
    title TEXT NOT NULL, url TEXT NOT NULL, timestamp TEXT NOT NULL, sha256 TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""  # the text comes last: reading the columns before it skips the pages that it fills


class RawStore:
    """Articles of one source, in order of arrival, each held once by its page_id.

    Several processes may open the same file; `minillm.corpus.Corpus` lets one write at a time.

    Args:
        path: the SQLite file; made, with its folders, where there is none.

    Raises:
        OutsideError: (here and in every method) the file cannot be opened, or is damaged, or is no raw store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._faults():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without isolation level each statement commits itself; in WAL mode a commit survives the process.
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # damage is found by SHA-256
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
        return self._write(
            "INSERT OR IGNORE INTO articles (revision_id, title, url, timestamp, sha256, text, page_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            article,
        )

    def replace(self, article: Article) -> bool:
        """Put a newly fetched article in the place of the held one; return False where its page_id is not held."""
        return self._write(
            "UPDATE articles SET revision_id=?, title=?, url=?, timestamp=?, sha256=?, text=? WHERE page_id=?", article
        )

    def remove(self, page_id: int) -> bool:
        """Remove an article; return False where it is not held."""
        with self._faults():
            return self._connection.execute("DELETE FROM articles WHERE page_id=?", (page_id,)).rowcount == 1

    def __len__(self) -> int:
        with self._faults():
            return int(self._connection.execute("SELECT COUNT(*) FROM articles").fetchone()[0])

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
                    "remove the file to have its articles fetched again"
                )
            yield article

    def damaged(self) -> list[int]:
        """Return the page_ids of the articles that are not as they were added, in order of arrival."""
        return [article.page_id for article, whole in self._read() if not whole]

    def digest(self, limit: int | None = None) -> str:
        """Return one SHA-256, in hexadecimal, for the first articles (all where limit is None) and their order."""
        digest = hashlib.sha256()
        with self._faults():
            for row in self._connection.execute(
                "SELECT page_id, revision_id, title, url, timestamp, sha256 FROM articles ORDER BY position LIMIT ?",
                (-1 if limit is None else limit,),
            ):
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value kept under a key, or the default."""
        with self._faults():
            row = self._connection.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
            return default if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a plain JSON value under a key."""
        with self._faults():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def _write(self, statement: str, article: Article) -> bool:
        row = (article.revision_id, article.title, article.url, article.timestamp, article.sha256, article.text)
        with self._faults():
            return self._connection.execute(statement, (*row, article.page_id)).rowcount == 1

    def _read(self) -> Iterator[tuple[Article, bool]]:
        """Yield each article and whether its text still has the SHA-256 that it came with."""
        with self._faults():
            problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            for page_id, revision_id, title, url, timestamp, sha256, text in self._connection.execute(
                "SELECT page_id, revision_id, title, url, timestamp, sha256, CAST(text AS BLOB) "
                "FROM articles ORDER BY position"
            ):
                article = Article(page_id, title, text.decode("utf-8", "replace"), revision_id, url, timestamp)
                yield article, hashlib.sha256(text).hexdigest() == sha256

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, unreadable: the file itself may be fine
            raise OutsideError(f"{self.path}: cannot be used ({error})") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            problem = " ".join(str(error).split())
            raise OutsideError(
                f"{self.path}: is damaged or no raw store ({problem}): remove it to have its articles fetched again"
            ) from error
        except OSError as error:
            raise OutsideError(f"{self.path}: cannot be opened ({error.strerror})") from error
