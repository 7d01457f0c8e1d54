"""Sources of articles: one per file, all with one protocol."""

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
    if name in __all__:  # imports the libraries of the requested source only
        module = "source" if name in ("Source", "InParts") else name.removesuffix("Source").lower()
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
