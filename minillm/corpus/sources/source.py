"""The protocols of sources of articles."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minillm.corpus.article import Article
from minillm.corpus.sources.export import Left


class Held(Container[int], Protocol):
    """What a corpus already has: the page_ids of its articles, and its source's notes for resuming."""

    @property
    def folder(self) -> Path:
        """A folder on the same disk, for a source's temporary files."""

    def page_ids(self) -> Iterable[int]:
        """Return the page_ids of all its articles, in any order."""

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value kept under a key, or the default."""

    def set_meta(self, key: str, value: Any) -> None:
        """Store a plain JSON value under a key, durably."""


@runtime_checkable
class Source(Protocol):
    """A source of articles."""

    @property
    def name(self) -> str:
        """The source's kind, in one word."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides which articles the source yields, as plain JSON values.

        Equal descriptions share one raw store. What can change unnoticed, such as a wiki's articles, is left out: the
        store keeps the first version that was read.

        Raises:
            SettingError: a setting names something that does not exist.
        """

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield articles that are not held yet, lazily, each with a page_id of its own.

        An article that was yielded before and is no longer held comes before new ones. Under the key ``counts`` a
        source may store counts of its work, such as requests and bytes, which the funnel shows; under ``origin``, what
        exactly it reads, such as a dataset's revision, which the corpus's lock names.

        A source with an order keeps it, so that a corpus grows by the next articles. If the iterator ends before
        ``limit``, the source has no more articles. The caller stores each article before it takes the next, so
        ``held`` grows meanwhile.

        Args:
            limit: the most articles; None: all.
            held: what the corpus already has.

        Raises:
            SettingError: the source's settings, or the input they name, cannot be used.
            OutsideError: a fault outside the program; earlier outcomes are good.
        """


@runtime_checkable
class InParts(Source, Protocol):
    """A source whose input has parts that can be read independently, also on other machines.

    ``joined(chain.from_iterable(map(read, pieces())), ...)`` is what ``articles(...)`` yields.
    """

    def pieces(self) -> list[Any]:
        """Return the parts for `read`, in the order of the articles; empty: it cannot be read in parts.

        Raises:
            SettingError: the input's beginning shows that it cannot be used.
        """

    def read(self, part: Any) -> Iterator[Article | Left]:
        """Yield an outcome for each record of a part, in order.

        Raises:
            SettingError: the input cannot be used.
            OutsideError: a fault outside the program; earlier outcomes are good.
        """

    def joined(self, outcomes: Iterable[Article | Left], limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles of all parts' outcomes; resolves what depends on several parts, such as repeated ids.

        Reads no outcome ahead of the yielded article, and no article's text.

        Args:
            outcomes: of all parts, in order.
            limit: the most articles; None: all.
            held: what the corpus already has.
        """
