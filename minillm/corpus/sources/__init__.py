"""Where articles come from: one source a file, all behind one protocol."""

from minillm.corpus.sources.dump import DumpSource
from minillm.corpus.sources.files import FilesSource
from minillm.corpus.sources.hub import HubSource
from minillm.corpus.sources.sample import SampleSource
from minillm.corpus.sources.source import Source
from minillm.corpus.sources.wikipedia import WikipediaSource

__all__ = ["DumpSource", "FilesSource", "HubSource", "SampleSource", "Source", "WikipediaSource"]
