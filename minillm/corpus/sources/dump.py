"""Articles from a dump of a wiki: pages-articles XML, .bz2 or plain."""

import bz2
import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast
from urllib.parse import quote

from lxml import etree

from minillm.corpus import wikitext
from minillm.corpus.article import Article, sha256
from minillm.corpus.fingerprint import libraries
from minillm.corpus.sources.source import Held
from minillm.corpus.wikitext import Dialect, is_disambiguation, is_redirect, plain_text
from minillm.errors import OutsideError, SettingError
from minillm.parallel import batches, in_order
from minillm.progress import open_tracked

VERSION = 1  # raised when the same dump would yield other articles
LICENCE = "CC BY-SA 4.0"  # of every Wikipedia; a dump does not tell
EDGE = 1 << 20  # bytes at the file's beginning and end by which it is told from others, with its size
BATCH = 64  # pages that a process converts at a time

Page = tuple[int, int, str, str, str]  # page_id, revision_id, title, timestamp, wikitext
Kind = Article | str  # or the reason why a page is no article


@dataclass(frozen=True)
class DumpSource:
    """The articles of a dump: main namespace, no redirects, no disambiguation pages, in the dump's order.

    The file is read as a stream in constant memory. A run that was broken off reads it from the beginning again, which
    is quick: only what it does not hold yet is made plain text of.

    Args:
        path: the dump, such as eswiki-latest-pages-articles.xml.bz2.
        processes: processes that make text of wikitext, beside the one that reads; 1 does it in that one.

    Raises:
        SettingError: no path, or no process; on use also a file that is no dump.
        OutsideError: on use, a dump that is cut off or damaged in the middle; what came before is good.
    """

    path: str | None = None
    processes: int = 2
    name: ClassVar[str] = "dump"

    def __post_init__(self) -> None:
        if not self.path:
            raise SettingError("path", self.path, "must name a dump (pages-articles XML, .bz2 or plain)")
        if self.processes < 1:
            raise SettingError("processes", self.processes, "must be at least 1")

    def describe(self) -> dict[str, Any]:
        """Return the file's size and the SHA-256 of its beginning and end."""
        digest = hashlib.sha256()
        with self._reading(), self._file.open("rb") as file:
            size = self._file.stat().st_size
            digest.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read(EDGE))
        made = {"version": VERSION, "wikitext": wikitext.VERSION, "libraries": libraries("wikitext")}
        return {**made, "size": size, "edges": digest.hexdigest()}

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles in the dump's order; see `Source.articles`."""
        yield from islice(self._articles(held, shows_progress=limit is None), limit)

    def _articles(self, held: Held, shows_progress: bool) -> Iterator[Article]:
        counts = Counter(redirect=0, disambiguation=0)
        opened = open_tracked(self._file, "reading the dump") if shows_progress else self._file.open("rb")
        with self._reading(), opened as file:
            dump = _Dump(_unpacked(file))
            convert = functools.partial(_articles_of, dialect=dump.dialect, base=dump.base)
            pages = (page for page in dump.pages(counts) if page[0] not in held)
            try:
                for _, kind in in_order(convert, batches(pages, BATCH), self.processes):
                    if isinstance(kind, Article):
                        yield kind
                    else:
                        counts[kind] += 1
            finally:
                held.set_meta("counts", dict(counts))

    @property
    def _file(self) -> Path:
        return Path(self.path or "").expanduser()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (etree.XMLSyntaxError, EOFError) as error:
            problem = " ".join(str(error).split())
            advice = "data.num_articles=... takes what came before"
            raise OutsideError(f"{self.path}: the dump is cut off or damaged ({problem}); {advice}") from error
        except OSError as error:
            advice = f"cannot be read: {error.strerror or error}"
            raise SettingError("data.source.path", self.path, advice) from error
        except _NoDumpError as error:
            raise SettingError("data.source.path", self.path, f"is no dump of a wiki: {error}") from error


class _NoDumpError(Exception):
    """The file does not begin as a dump does."""


class _Dump:
    """The XML of a dump, read as a stream; see https://www.mediawiki.org/wiki/Help:Export.

    Args:
        file: the XML.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._events = etree.iterparse(file, events=("end",), tag=("{*}siteinfo", "{*}page"), huge_tree=True)
        try:
            _, header = next(self._events)
        except (etree.XMLSyntaxError, StopIteration) as error:
            raise _NoDumpError(str(error) or "it has no header") from error
        name = etree.QName(header)
        if name.localname != "siteinfo":
            raise _NoDumpError("it has no header")
        self._space = f"{{{name.namespace}}}" if name.namespace else ""
        self._root = header.getroottree().getroot()
        spaces = header.iter(f"{self._space}namespace")
        self.dialect = Dialect.of_namespaces([(int(space.get("key", 0)), space.text or "") for space in spaces])
        self.base = header.findtext(f"{self._space}base", "").rpartition("/")[0]

    def pages(self, counts: Counter[str]) -> Iterator[Page]:
        """Yield the pages of the main namespace that are no redirects; count the redirects."""
        space = self._space
        for _, page in self._events:
            if page.findtext(f"{space}ns") == "0":
                if page.find(f"{space}redirect") is not None:
                    counts["redirect"] += 1
                elif (revision := page.find(f"{space}revision[last()]")) is not None:
                    yield (
                        int(page.findtext(f"{space}id", "0")),
                        int(revision.findtext(f"{space}id", "0")),
                        page.findtext(f"{space}title", ""),
                        revision.findtext(f"{space}timestamp", ""),
                        revision.findtext(f"{space}text", ""),
                    )
            self._root.clear()  # what was read makes room


def _unpacked(file: BinaryIO) -> BinaryIO:
    """Return a dump's XML, whether it is packed or not."""
    packed = file.read(3) == b"BZh"
    file.seek(0)
    return cast(BinaryIO, bz2.BZ2File(file)) if packed else file


def _articles_of(pages: list[Page], dialect: Dialect, base: str) -> list[Kind]:
    return [_article_of(page, dialect, base) for page in pages]


def _article_of(page: Page, dialect: Dialect, base: str) -> Kind:
    page_id, revision_id, title, timestamp, source = page
    if is_redirect(source, dialect):
        return "redirect"
    if is_disambiguation(source):
        return "disambiguation"
    url = f"{base}/{quote(title.replace(' ', '_'), safe='/:(),')}"
    text = plain_text(source, dialect)
    return Article(page_id, title, text, revision_id, url, timestamp, LICENCE, sha256(source))
