"""The lock of a corpus: which revisions it was made of, so that the same corpus can be fetched again."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from minillm.corpus.article import Article
from minillm.errors import SettingError

SCHEMA = 1
SEAL, END = ', "sha256": "', '"}\n'  # around the SHA-256 of all that stands before it


@dataclass(frozen=True, slots=True)
class LockedRevision:
    """One revision of one page.

    Args:
        page_id: the page.
        revision_id: its revision.
        sha256: SHA-256 of the revision's wikitext; of the text that the source gave where it gave no wikitext.
        title: the page's title.
        wikitext: tells which of the two it is.
    """

    page_id: int
    revision_id: int
    sha256: str
    title: str
    wikitext: bool


class LockWriter:
    """Writes where the articles are from, and those that carry a revision, in order, one a line.

    Args:
        path: the file to write.
        source: the source's name, as plain JSON values; of a dataset on the hub also which one, and its revision.
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
        """Write an article's revision, if its source knows it.

        Args:
            article: the article.
            sha256: of the text that its source gave, where that is not in the article any more.
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
    """Return the revisions that a lock names.

    Args:
        path: a corpus.lock.json.

    Raises:
        SettingError: it cannot be read or is no lock.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        content = json.loads(text)
        revisions = [LockedRevision(**entry) for entry in content["articles"]]
    except OSError as error:
        raise SettingError("data.source.lock", path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SettingError("data.source.lock", path, "is no corpus.lock.json, or damaged") from error
    before, _, seal = text.rpartition(SEAL)
    # One without a seal is older, or changed by hand.
    if "sha256" in content and seal != hashlib.sha256(before.encode()).hexdigest() + END:
        advice = 'is damaged, or was changed by hand; use another copy, or take out the "sha256" at its end'
        raise SettingError("data.source.lock", path, advice)
    return revisions
