"""The XML of a wiki's dump, read as a stream; see https://www.mediawiki.org/wiki/Help:Export.

Pages of other namespaces, earlier revisions, and text beyond the limit take no memory, however long they are.
"""

from collections.abc import Container, Iterator
from typing import NamedTuple
from xml.parsers import expat

from minillm.corpus.ids import VALID, number_of
from minillm.corpus.wikitext import Dialect

LONGEST_FIELD = 4096  # characters of a title, a number or a time; MediaWiki's titles have at most 255 bytes
LONGEST_TAG = 1 << 24  # bytes of a tag or comment, which the parser keeps in memory
DEEPEST = 100  # elements within elements; a dump has six
WANTED = {  # elements by their parent's name and their own
    ("siteinfo", "base"),
    ("namespaces", "namespace"),
    ("page", "title"),
    ("page", "ns"),
    ("page", "id"),
    ("page", "redirect"),
    ("revision", "id"),
    ("revision", "timestamp"),
    ("revision", "text"),
}
REVISION = ("revision id", "revision timestamp", "revision text")


class Page(NamedTuple):
    """A page of the main namespace in its last revision; no redirect."""

    page_id: int
    revision_id: int
    title: str
    timestamp: str
    text: str


class Left(NamedTuple):
    """A page that is left out.

    Attributes:
        reason: the name under which it is counted; "held" is not counted.
        page_id: its id; -1: it has none.
        name: its title, or its position in the file.
        problem: what is wrong with it, if the user should know.
    """

    reason: str
    page_id: int
    name: str = ""
    problem: str = ""


class NoExportError(Exception):
    """The file does not begin like a dump."""


class DamagedExportError(Exception):
    """The XML is cut off or damaged."""


class Export:
    """A dump's XML, read up to its first page.

    Args:
        chunks: the XML.
        max_page_bytes: a page whose text has more UTF-8 bytes is left out.
        held: ids of pages that are not read.

    Attributes:
        dialect: the wiki's names.
        base: address of the wiki's pages, without their titles.
        strange: keys of namespaces that are no numbers; the dialect lacks these namespaces.

    Raises:
        NoExportError: it is no dump.
    """

    def __init__(self, chunks: Iterator[bytes], max_page_bytes: int, held: Container[int] = ()) -> None:
        self._chunks, self._max_page_bytes, self._held = chunks, max_page_bytes, held
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text, parser.buffer_size, parser.ordered_attributes = True, 1 << 16, True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartDoctypeDeclHandler = self._refuse
        self._fed = 0  # bytes
        self._path: list[str] = []  # names of the open elements
        self._fields: dict[str, str | None] = {}  # of the page that is being read; None: too long
        self._collected: str | None = None  # the field whose text is being read
        self._depth = 0  # of the element that holds it
        self._pieces: list[str] = []
        self._room = 0  # characters that the field can still take
        self._place = 0  # position in the XML at which the page begins, in bytes
        self._ready: list[Page | Left] = []
        self._fault: DamagedExportError | None = None  # raised after the finished pages
        self._key = "0"  # of the namespace that is being read
        self._namespaces: list[tuple[str, str]] = []
        self._has_header = False
        self.base = ""
        while not self._has_header and self._parse():
            pass
        if not self._has_header:
            raise NoExportError(str(self._fault or "it has no header"))
        numbers = [(number_of(key, signed=True), name) for key, name in self._namespaces]
        self.dialect = Dialect.of_namespaces((number, name) for number, name in numbers if number is not None)
        self.strange = [key for key, _ in self._namespaces if number_of(key, signed=True) is None]

    def pages(self) -> Iterator[Page | Left]:
        """Yield the pages of the main namespace.

        Raises:
            DamagedExportError: the XML is cut off or damaged; what came before is good.
        """
        goes_on = True
        while goes_on:
            ready, self._ready = self._ready, []
            yield from ready
            if self._fault:
                raise self._fault
            goes_on = self._parse()
        if self._fault:
            raise self._fault

    def _parse(self) -> bool:
        """Parse the next chunk; return whether another may follow."""
        chunk = next(self._chunks, b"")
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            self._fault = DamagedExportError(str(error))
        except DamagedExportError as error:
            self._fault = error
        # Modulo: the parser counts in 32 bits on some systems.
        if (self._fed - self._parser.CurrentByteIndex) % (1 << 32) > LONGEST_TAG:
            self._fault = DamagedExportError(f"a tag or comment of more than {LONGEST_TAG:,} bytes")
        return bool(chunk)

    def _refuse(self, *doctype: object) -> None:
        # It could declare entities that expand without limit.
        raise NoExportError("it declares a document type, as no dump does")

    def _start(self, name: str, attributes: list[str]) -> None:
        path = self._path
        parent = path[-1] if path else ""
        path.append(name)
        if (parent, name) in WANTED:
            self._collect(f"revision {name}" if parent == "revision" else name, attributes)
        elif name == "revision":
            for field in REVISION:  # of an earlier revision
                self._fields.pop(field, None)
            self._fields[name] = ""
        elif len(path) > DEEPEST:
            raise DamagedExportError(f"more than {DEEPEST} elements within one another")
        elif len(path) == 2:
            self._fields.clear()
            self._place = self._parser.CurrentByteIndex
            if name == "page" and not self._has_header:
                raise NoExportError("it has no header")

    def _collect(self, field: str, attributes: list[str]) -> None:
        if field == "namespace":
            self._key = dict(zip(attributes[::2], attributes[1::2], strict=True)).get("key", "0")
        is_text = field == "revision text"
        self._collected, self._depth = field, len(self._path)
        self._room = self._max_page_bytes if is_text else LONGEST_FIELD
        if not is_text or self._wants_text():
            self._parser.CharacterDataHandler = self._data

    def _wants_text(self) -> bool:
        fields = self._fields
        return (
            fields.get("ns", "0") == "0" and "redirect" not in fields and number_of(fields.get("id")) not in self._held
        )

    def _data(self, piece: str) -> None:
        self._room -= len(piece)
        if self._room < 0:
            self._pieces.clear()  # frees the rest of the text
        else:
            self._pieces.append(piece)

    def _end(self, name: str) -> None:
        path = self._path
        depth = len(path)
        path.pop()
        if self._collected and depth == self._depth:
            value = "".join(self._pieces) if self._room >= 0 else None
            if self._collected == "namespace":
                self._namespaces.append((self._key, value or ""))
            elif self._collected == "base":
                self.base = (value or "").rpartition("/")[0]
            else:
                self._fields[self._collected] = value
            self._pieces.clear()
            self._collected = self._parser.CharacterDataHandler = None
        elif depth == 2 and name == "page":
            if self._fields.get("ns") == "0":
                self._ready.append(self._page())
        elif depth == 2 and name == "siteinfo":
            self._has_header = True

    def _page(self) -> Page | Left:
        """Return the page whose fields were read."""
        fields = self._fields
        page_id, revision_id = number_of(fields.get("id")), number_of(fields.get("revision id"))
        title, timestamp, text = (fields.get(name) for name in ("title", "revision timestamp", "revision text"))
        known = -1 if page_id is None else page_id
        if "redirect" in fields:
            return Left("redirect", known)
        if known in self._held:
            return Left("held", known)
        name = f"the page {title[:80]!r}" if title else f"the page at byte {self._place:,} of the XML"
        limit = self._max_page_bytes
        if "revision text" in fields and (text is None or (len(text) * 4 > limit and len(text.encode()) > limit)):
            problem = f"has more than {limit:,} bytes; data.source.max_page_bytes=... would read it"
            return Left("too long", known, name, problem)
        if page_id is None:
            return Left("unusable", known, name, f"has no <id> {VALID}")
        if "revision" not in fields:
            return Left("unusable", known, name, "has no revision")
        if revision_id is None:
            return Left("unusable", known, name, f"has a revision without an <id> {VALID}")
        if not title or not title.strip():
            return Left("unusable", known, name, "has no title")
        if not timestamp or not timestamp.strip():
            return Left("unusable", known, name, "has no timestamp")
        return Page(page_id, revision_id, title, timestamp, text or "")
