"""The article record, which sources yield and later stages read."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Article:
    """One encyclopedia article.

    Args:
        page_id: identity of the article within its corpus. It determines the article's split, so it must not change
            when the corpus grows or the text is revised.
        title: the title.
        text: the text, from the source or cleaned, depending on the stage.
        revision_id: the wiki's revision of the text; 0: unknown.
        url: where the article can be read; "": unknown.
        timestamp: time of the revision, ISO 8601; "": unknown.
        licence: of the text, such as "CC BY-SA 4.0"; "": unknown.
        wikitext_sha256: hexadecimal SHA-256 of the wikitext that the text was made from; "": from no wikitext.
        whence: place in the source, such as ``texts/a.jsonl:12``; "": unknown.
        place: a number in [0, 1) that determines the split instead of the page id; articles that belong together, such
            as the parts of one file, share it; None: the page id does.
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
