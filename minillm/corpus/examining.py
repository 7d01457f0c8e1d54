"""Cleaning and filtering of single articles; worker processes only import this module."""

from typing import NamedTuple

from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.duplicates import DuplicateFilter, Sketch
from minillm.corpus.quality import QualityFilter


class Examined(NamedTuple):
    """The result for one article.

    Attributes:
        text: the clean text.
        shorter: number of characters that each cleaning step removed.
        reason: why the article is dropped; None: it is kept.
        sketch: for the search for duplicates; None: it is dropped.
    """

    text: str
    shorter: dict[str, int]
    reason: str | None
    sketch: Sketch | None


def examine_all(
    cleaner: Cleaner, quality: QualityFilter, duplicates: DuplicateFilter, min_length: int, articles: list[Article]
) -> list[Examined]:
    """Clean and filter articles, and make their sketches.

    Args:
        cleaner: the cleaning chain.
        quality: the quality filter.
        duplicates: makes the sketches.
        min_length: articles with fewer characters after cleaning are dropped.
        articles: from the source.
    """
    # Each step for all articles, so that its tables stay in the CPU's cache.
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
