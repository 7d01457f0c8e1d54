"""The corpus: from sources of text to clean articles, each in a fixed split."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.corpus.article import Article
    from minillm.corpus.cleaning import Cleaner
    from minillm.corpus.corpus import ATTRIBUTION, DROPPED, LOCK, Corpus
    from minillm.corpus.duplicates import DuplicateFilter
    from minillm.corpus.quality import QualityFilter
    from minillm.corpus.sources import DumpSource, FilesSource, HubSource, SampleSource, Source, WikipediaSource
    from minillm.corpus.split import SPLITS, split_of
    from minillm.corpus.store import RawStore

__all__ = [
    "ATTRIBUTION",
    "DROPPED",
    "LOCK",
    "SPLITS",
    "Article",
    "Cleaner",
    "Corpus",
    "DumpSource",
    "DuplicateFilter",
    "FilesSource",
    "HubSource",
    "QualityFilter",
    "RawStore",
    "SampleSource",
    "Source",
    "WikipediaSource",
    "split_of",
]
MODULES = {"ATTRIBUTION": "corpus", "LOCK": "corpus", "SPLITS": "split", "split_of": "split", "Article": "article"}
MODULES |= {"Cleaner": "cleaning", "Corpus": "corpus", "DuplicateFilter": "duplicates", "QualityFilter": "quality"}
MODULES |= {"RawStore": "store", "DROPPED": "corpus"}


def __getattr__(name: str) -> Any:
    # Lazy: a process that reads a dump does not need the libraries of the other stages.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{MODULES.get(name, 'sources')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
