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
    """

    page_id: int
    title: str
    text: str
    revision_id: int = 0
    url: str = ""
    timestamp: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()
