"""Text: from where it lies to clean articles, each in one split for good."""

from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.corpus import ATTRIBUTION, LOCK, Corpus
from minillm.corpus.duplicates import DuplicateFilter
from minillm.corpus.quality import QualityFilter
from minillm.corpus.sources import DumpSource, FilesSource, HubSource, SampleSource, Source, WikipediaSource
from minillm.corpus.split import SPLITS, split_of
from minillm.corpus.store import RawStore

__all__ = [
    "ATTRIBUTION",
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
