"""The record that every source yields and every later stage reads."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Article:
    """One encyclopedia article.

    Args:
        page_id: identity of the article within its corpus; it decides the article's split, so it must not change
            when the corpus grows or the text is revised.
        title: the article's title.
        text: the article's text: as the source has it, or cleaned, depending on the stage.
        revision_id: the wiki's revision of the text; 0 where the source knows none.
        url: where the article can be read; empty where the source knows none.
        timestamp: time of the revision, ISO 8601; empty where the source knows none.
        licence: terms under which the text may be used, such as "CC BY-SA 4.0"; empty where the source knows none.
        wikitext_sha256: SHA-256 of the wikitext that the text was made from, in hexadecimal; empty where it was not.
        whence: where in the source it stands, such as ``texts/a.jsonl:12``; empty where the source has no such place.
        place: from 0 to under 1, what decides the article's split in place of its identity: articles that belong
            together, such as the parts of one file, share it; None where it belongs to no other.
    """

    page_id: int
    title: str
    text: str
    revision_id: int = 0
    url: str = ""
    timestamp: str = ""
    licence: str = ""
    wikitext_sha256: str = ""
    whence: str = ""
    place: float | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
        return sha256(self.text)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
