"""Text: from where it lies to clean articles, each in one split for good."""

from minillm.corpus.article import Article
from minillm.corpus.cleaning import Cleaner
from minillm.corpus.corpus import Corpus
from minillm.corpus.duplicates import DuplicateFilter
from minillm.corpus.quality import QualityFilter
from minillm.corpus.sources import FilesSource, SampleSource, Source
from minillm.corpus.split import SPLITS, split_of
from minillm.corpus.store import RawStore

__all__ = [
    "SPLITS",
    "Article",
    "Cleaner",
    "Corpus",
    "DuplicateFilter",
    "FilesSource",
    "QualityFilter",
    "RawStore",
    "SampleSource",
    "Source",
    "split_of",
]
