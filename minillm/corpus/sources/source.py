"""What every source of articles offers."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minillm.corpus.article import Article
from minillm.corpus.sources.export import Left


class Held(Container[int], Protocol):
    """What a corpus has already: the page_ids of its articles, and what their source keeps to go on from."""

    @property
    def folder(self) -> Path:
        """A folder on the same disk, for a source's temporary files."""

    def page_ids(self) -> Iterable[int]:
        """Return the page_ids of all its articles, in any order."""

    def get_meta(self, key: str, default: Any = None) -> Any:
        """Return the value kept under a key, or the default."""

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a plain JSON value under a key; it survives whatever becomes of the process."""


@runtime_checkable
class Source(Protocol):
    """Where articles come from."""

    @property
    def name(self) -> str:
        """One word that names the kind of source."""

    def describe(self) -> dict[str, Any]:
        """Return, as plain JSON-able values, everything that decides which articles the source yields.

        Equal descriptions share one raw store. What can change without the source being told, such as a wiki's
        articles, is left out: the store keeps what was read first.

        Raises:
            SettingError: a setting names something that does not exist.
        """

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield articles that are not held yet, lazily, each with a page_id of its own.

        An article that was yielded once and is not held any more comes before new ones. Under the key ``counts`` a
        source may keep what it had to do so far, by name, such as requests and bytes: it is shown with the funnel.
        Under ``origin`` it may keep exactly what it reads, such as a dataset's revision: the corpus's lock names it.

        A source with an order of its own keeps to it, so that a corpus grows by its next articles. When the iterator
        ends before ``limit``, the source has nothing more to give. The caller keeps each article before it asks for
        the next, so ``held`` grows meanwhile.

        Args:
            limit: yield at most so many articles; None for all there are.
            held: what the corpus has already.

        Raises:
            SettingError: the source's settings, or the input they name, cannot be used.
            OutsideError: a fault outside the program; what was yielded so far is good.
        """


@runtime_checkable
class InParts(Source, Protocol):
    """A source whose input is in parts that can be read each on its own, on whatever machine sees it.

    ``joined(chain.from_iterable(map(read, pieces())), ...)`` is what ``articles(...)`` yields.
    """

    def pieces(self) -> list[Any]:
        """Return what `read` takes, in the order of the articles; empty where it cannot be read in parts.

        Raises:
            SettingError: the input cannot be used, as far as its beginning tells.
        """

    def read(self, part: Any) -> Iterator[Article | Left]:
        """Yield what becomes of each record of a part, in order.

        Raises:
            SettingError: the input cannot be used.
            OutsideError: a fault outside the program; what was yielded so far is good.
        """

    def joined(self, outcomes: Iterable[Article | Left], limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles of the outcomes of all parts: what the parts cannot know of each other is settled here.

        Nothing is taken of the outcomes ahead of the article that is yielded, and an article's text is not looked at.

        Args:
            outcomes: of all parts, in order.
            limit: yield at most so many articles; None for all there are.
            held: what the corpus has already.
        """
