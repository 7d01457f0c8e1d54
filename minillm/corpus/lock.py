"""The lock of a corpus: the revisions that it consists of, so that the same corpus can be fetched again."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from minillm.corpus.article import Article
from minillm.errors import SettingError

SCHEMA = 1
SEAL, END = ', "sha256": "', '"}\n'  # before and after the SHA-256 of everything before SEAL


@dataclass(frozen=True, slots=True)
class LockedRevision:
    """A revision of a page.

    Args:
        page_id: the page.
        revision_id: the revision.
        sha256: SHA-256 of the revision's wikitext, or of the source's text if the source has no wikitext.
        title: the page's title.
        wikitext: whether ``sha256`` is that of wikitext.
    """

    page_id: int
    revision_id: int
    sha256: str
    title: str
    wikitext: bool


class LockWriter:
    """Writes the source, and the revisions of its articles, in order, one per line.

    Args:
        path: the file to write.
        source: JSON values: the source's name, and for a dataset on the hub also its path and revision.
    """

    def __init__(self, path: Path, source: dict[str, Any]) -> None:
        self._source = source
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._separator = "\n"
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        source = json.dumps(self._source, ensure_ascii=False)
        self._write(f'{{"schema": {SCHEMA}, "source": {source}, "articles": [')
        return self

    def __exit__(self, *error: object) -> None:
        self._write("\n]")
        self._file.write(SEAL + self._digest.hexdigest() + END)
        self._file.close()

    def add(self, article: Article, sha256: str | None = None) -> None:
        """Write an article's revision, if it is known.

        Args:
            article: the article.
            sha256: of the source's text, if ``article`` does not have that text any more.
        """
        if not article.revision_id:
            return
        revision = {
            "page_id": article.page_id,
            "revision_id": article.revision_id,
            "sha256": article.wikitext_sha256 or sha256 or article.sha256,
            "title": article.title,
            "wikitext": bool(article.wikitext_sha256),
        }
        self._write(self._separator + json.dumps(revision, ensure_ascii=False))
        self._separator = ",\n"

    def _write(self, text: str) -> None:
        self._digest.update(text.encode())
        self._file.write(text)


def read_lock(path: str) -> list[LockedRevision]:
    """Return the revisions in a lock file.

    Args:
        path: a corpus.lock.json.

    Raises:
        SettingError: it cannot be read or is not a lock file.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        content = json.loads(text)
        revisions = [LockedRevision(**entry) for entry in content["articles"]]
    except OSError as error:
        raise SettingError("data.source.lock", path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SettingError("data.source.lock", path, "is not a corpus.lock.json, or is damaged") from error
    before, _, seal = text.rpartition(SEAL)
    # A file without a SHA-256, of an older version or edited by hand, is accepted.
    if "sha256" in content and seal != hashlib.sha256(before.encode()).hexdigest() + END:
        advice = 'is damaged, or was changed by hand; use another copy, or remove the "sha256" at its end'
        raise SettingError("data.source.lock", path, advice)
    return revisions
