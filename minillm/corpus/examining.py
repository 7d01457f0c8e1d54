"""What is found out about each article alone; the processes that share this work load this module and no more."""

from typing import NamedTuple

from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.duplicates import DuplicateFilter, Sketch
from minillm.corpus.quality import QualityFilter


class Examined(NamedTuple):
    """What is found out about one article.

    Attributes:
        text: its clean text.
        shorter: characters that each step of cleaning removed.
        reason: why it is dropped; None where it is kept.
        sketch: what it is compared with others by, where it is kept.
    """

    text: str
    shorter: dict[str, int]
    reason: str | None
    sketch: Sketch | None


def examine_all(
    cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int, articles: list[Article]
) -> list[Examined]:
    """Return what is found out about each article alone.

    Args:
        cleaner: the cleaning chain.
        quality: what is not worth learning from.
        duplicates: makes the sketches.
        min_length: articles with fewer characters after cleaning are dropped.
        articles: as their source has them.
    """
    # Each step for all articles before the next one: what it works with stays in the processor's cache.
    cleaned = [cleaner.clean(article.text) for article in articles]
    reasons = [
        quality.reason(article.title, article.text, text) or ("too short" if len(text) < min_length else None)
        for article, (text, _) in zip(articles, cleaned, strict=True)
    ]
    kept = [text for (text, _), reason in zip(cleaned, reasons, strict=True) if not reason]
    sketches = iter(duplicates.sketch_all(kept))
    return [
        Examined(text, shorter, reason, None if reason else next(sketches))
        for (text, shorter), reason in zip(cleaned, reasons, strict=True)
    ]
