"""What every source of articles offers."""

from collections.abc import Container, Iterator
from typing import Any, Protocol, runtime_checkable

from minillm.corpus.article import Article


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

    def articles(self, limit: int | None, held: Container[int]) -> Iterator[Article]:
        """Yield articles that are not held yet, lazily, each with a page_id of its own.

        A source with an order of its own keeps to it, so that a corpus grows by its next articles. When the iterator
        ends before ``limit``, the source has nothing more to give. The caller keeps each article before it asks for
        the next, so ``held`` grows meanwhile.

        Args:
            limit: yield at most so many articles; None for all there are.
            held: the page_ids that the corpus has already.

        Raises:
            SettingError: the source's settings, or the input they name, cannot be used.
            OutsideError: a fault outside the program; what was yielded so far is good.
        """
