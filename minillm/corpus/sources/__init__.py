"""Where articles come from: one source a file, all behind one protocol."""

from minillm.corpus.sources.files import FilesSource
from minillm.corpus.sources.sample import SampleSource
from minillm.corpus.sources.source import Source

__all__ = ["FilesSource", "SampleSource", "Source"]
