"""Where articles come from: one source a file, all behind one protocol."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.corpus.sources.dump import DumpSource
    from minillm.corpus.sources.files import FilesSource
    from minillm.corpus.sources.hub import HubSource
    from minillm.corpus.sources.sample import SampleSource
    from minillm.corpus.sources.source import InParts, Source
    from minillm.corpus.sources.wikipedia import WikipediaSource

__all__ = ["DumpSource", "FilesSource", "HubSource", "InParts", "SampleSource", "Source", "WikipediaSource"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # only the libraries of the source that is asked for are loaded
        module = "source" if name in ("Source", "InParts") else name.removesuffix("Source").lower()
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
