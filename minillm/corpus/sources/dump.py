"""Articles from a wiki's dump: pages-articles XML, .bz2 or plain, in one file or in parts."""

import bz2
import contextlib
import functools
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast
from urllib.parse import quote

from minillm.corpus import wikitext
from minillm.corpus.article import Article, sha256
from minillm.corpus.fingerprint import libraries
from minillm.corpus.ids import IdSet
from minillm.corpus.sources.export import DamagedExportError, Export, Left, NoExportError, Page
from minillm.corpus.sources.left_out import MAX_WARNINGS, LeftOut
from minillm.corpus.sources.paths import files_at
from minillm.corpus.sources.source import Held
from minillm.corpus.wikitext import Dialect, is_disambiguation, is_redirect, plain_text
from minillm.errors import OutsideError, SettingError
from minillm.parallel import cores, in_order, side_by_side, weighed_batches
from minillm.progress import Reading, reading

log = logging.getLogger(__name__)

VERSION = 2  # raised when the same dump yields other articles
LICENCE = "CC BY-SA 4.0"  # of every Wikipedia; dumps do not name it
EDGE = 1 << 20  # bytes at a file's beginning and end that identify it, with its size
CHUNK = 1 << 20  # bytes of XML that are decompressed ahead
BATCH = 64  # pages that a process converts at a time
HEAVY = 1 << 20  # characters; a batch with more has fewer pages
DUMP_NAME = re.compile(r"\.xml(?:-p\d+p\d+)?(?:\.bz2)?$", re.IGNORECASE)
PAGES = re.compile(r"-p(\d+)p(\d+)(?:\.bz2)?$", re.IGNORECASE)  # the first and the last page_id that a part may hold
NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class DumpSource:
    """The articles of a dump: main namespace, no redirects, no disambiguation pages, in the dump's order.

    The XML is read as a stream in constant memory. An interrupted run reads it from the beginning again, which is fast:
    it converts only the pages that it does not have yet. The parts of one dump are read side by side, with the same
    result as one file with their pages in the order of the parts.

    Unusable pages (without id, title or time, or with wikitext that cannot be converted) are named in a warning and
    counted, and so are pages that are too long or repeated; all others are read.

    Args:
        path: the dump, such as eswiki-latest-pages-articles.xml.bz2; a folder, or a glob, of its parts, which are read
            in the order of their names and of the numbers in them.
        processes: processes that convert wikitext, beside the one that reads the file or joins the parts; 1: that one
            does all; None: one per core.
        max_page_bytes: a page whose wikitext has more UTF-8 bytes is too long; it is never in memory whole.

    Raises:
        SettingError: no path, no process or no bytes; on use also a file that is no dump, and parts that are not of one
            dump.
        OutsideError: on use, a dump that is cut off or damaged in the middle; what came before is good.
    """

    path: str | None = None
    processes: int | None = None
    max_page_bytes: int = 8_000_000
    name: ClassVar[str] = "dump"

    def __post_init__(self) -> None:
        if not self.path:
            raise SettingError("path", self.path, "must name a dump (pages-articles XML, .bz2 or plain)")
        if self.processes is not None and self.processes < 1:
            raise SettingError("processes", self.processes, "must be at least 1, or null for all cores")
        if self.max_page_bytes < 1:
            raise SettingError("max_page_bytes", self.max_page_bytes, "must be at least 1, such as 8000000")

    def describe(self) -> dict[str, Any]:
        """Return the size of each file and the SHA-256 of its beginning and end."""
        files = [self._edges(file) for file in self._files()]
        decided = {
            "version": VERSION,
            "wikitext": wikitext.VERSION,
            "libraries": libraries("wikitext"),
            "max_page_bytes": self.max_page_bytes,
        }
        return {**decided, **files[0]} if len(files) == 1 else {**decided, "parts": files}

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles in the dump's order; see `Source.articles`."""
        files = self._files()
        self._check_headers(files)
        size = sum(file.stat().st_size for file in files)
        with reading("reading the dump", size, shown=limit is None) as progress:
            for article in self.joined(self._outcomes(files, held, progress), limit, held):
                progress.add_article()
                yield article

    def pieces(self) -> list[tuple[Path, int | None]]:
        """Return the files, each with how many processes work on it; see `InParts.pieces`."""
        files = self._files()
        self._check_headers(files)
        return [(file.absolute(), 1 if len(files) > 1 else self.processes) for file in files]

    def read(self, part: tuple[Path, int | None]) -> Iterator[Article | Left]:
        """Yield an outcome for each page of the main namespace in a file; see `InParts.read`."""
        file, processes = part
        return chain.from_iterable(self._converted((), file, lambda position: None, processes or cores()))

    def joined(self, outcomes: Iterable[Article | Left], limit: int | None, held: Held) -> Iterator[Article]:
        """Yield the articles, and count the other pages; see `InParts.joined`."""
        yield from islice(self._joined(outcomes, held), limit)

    def _joined(self, outcomes: Iterable[Article | Left], held: Held) -> Iterator[Article]:
        left_out = LeftOut(self.path, "pages")
        counts = Counter(redirect=0, disambiguation=0)
        try:
            for outcome in self._each_once(outcomes):
                if isinstance(outcome, Article):
                    yield outcome
                elif outcome.reason != "held":
                    counts[outcome.reason] += 1
                    if outcome.problem:
                        left_out.add(outcome.name, outcome.problem)
            left_out.sum_up()
        finally:
            # A run that only replaces a damaged article does not read as far as an earlier one.
            if counts.total() >= sum(held.get_meta("counts", {}).values()):
                held.set_meta("counts", dict(counts))

    def _outcomes(self, files: list[Path], held: Held, progress: Reading) -> Iterator[Article | Left]:
        """Yield an outcome for each page of the main namespace, in order."""
        read = functools.partial(self._converted, IdSet(held.page_ids()))
        processes = self.processes or cores()
        if len(files) == 1:
            shares = read(files[0], functools.partial(progress.at, 0), processes)
        else:
            shares = side_by_side(read, files, processes, held.folder, progress.at)
        return chain.from_iterable(shares)

    def _each_once(self, outcomes: Iterable[Article | Left]) -> Iterator[Article | Left]:
        """Yield the outcomes without repeated pages; an unusable page does not count as the first."""
        seen = IdSet()
        for outcome in outcomes:
            has_id = isinstance(outcome, Article) or (outcome.page_id >= 0 and not outcome.problem)
            if not has_id or seen.add(outcome.page_id):
                yield outcome
            else:
                page = f"the page {outcome.title[:80]!r}" if isinstance(outcome, Article) else "a page"
                yield Left("repeated", outcome.page_id, f"{self.path}: {page} (id {outcome.page_id})", "comes twice")

    def _files(self) -> list[Path]:
        """Return the files, sorted by their names and the numbers in them."""
        path = Path(self.path or "").expanduser()
        found = files_at(path)
        if found is None or path.is_file():
            return [path]
        if path.is_dir():
            found = {name: file for name, file in found.items() if DUMP_NAME.search(name)}
        if not found:
            advice = "holds no dump: there is no .xml or .xml.bz2 file" if path.is_dir() else "matches no file"
            raise self._unusable(advice)
        files = sorted(found.values(), key=_in_natural_order)
        ranges = sorted(
            (int(match[1]), int(match[2]), file.name) for file in files if (match := PAGES.search(file.name))
        )
        for (_, last, name), (first, _, next_name) in pairwise(ranges):
            if first <= last:
                raise self._unusable(f"{name} and {next_name} hold the same pages; name the parts of one dump")
        return files

    def _edges(self, file: Path) -> dict[str, Any]:
        digest = hashlib.sha256()
        try:
            with file.open("rb") as content:
                size = file.stat().st_size
                digest.update(content.read(EDGE))
                content.seek(max(0, size - EDGE))
                digest.update(content.read(EDGE))
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror or error}", file) from error
        return {"size": size, "edges": digest.hexdigest()}

    def _check_headers(self, files: list[Path]) -> None:
        """Refuse files that are no dumps, or of different wikis, before reading any."""
        wikis = {}
        for file in files:
            with self._opened(file) as export:
                wikis[file] = export.dialect, export.base
                if export.strange and file == files[0]:
                    keys = ", ".join(repr(key[:80]) for key in export.strange[:MAX_WARNINGS])
                    log.warning("%s: left out: namespaces with keys that are no numbers (%s)", file, keys)
            if wikis[file] != wikis[files[0]]:
                raise self._unusable(
                    f"{files[0].name} and {file.name} are of different wikis; name the parts of one dump"
                )

    def _converted(
        self, held: Container[int], file: Path, told: Callable[[int], None], processes: int = 1
    ) -> Iterator[list[Article | Left]]:
        """Yield, in batches, an outcome for each page of the main namespace in a file.

        Args:
            held: ids of pages that are not read.
            file: the file.
            told: takes how many bytes of the file were read.
            processes: how many work, see `in_order`.
        """
        with self._opened(file, held, told) as export:
            convert = functools.partial(_converted, str(file), export.dialect, export.base)
            batches = weighed_batches(export.pages(), BATCH, _weight, HEAVY)
            if processes == 1:
                yield from map(convert, batches)
            else:
                for _, outcome in in_order(convert, batches, processes):
                    yield [outcome]

    @contextlib.contextmanager
    def _opened(
        self, file: Path, held: Container[int] = (), told: Callable[[int], None] = lambda position: None
    ) -> Iterator[Export]:
        """Open a file of the dump; errors while it is open name it."""
        begun = False
        try:
            with file.open("rb") as packed, ThreadPoolExecutor(1) as ahead:
                export = Export(_chunks(packed, ahead, told), self.max_page_bytes, held)
                begun = True
                yield export
        except NoExportError as error:
            raise self._unusable(f"is no dump of a wiki: {error}", file) from error
        except (DamagedExportError, EOFError, OSError) as error:
            problem = " ".join(str(getattr(error, "strerror", None) or error).split())
            if isinstance(error, OSError) and not begun:
                raise self._unusable(f"cannot be read: {problem}", file) from error
            advice = "data.num_articles=... takes what came before"
            raise OutsideError(f"{file}: the dump is cut off or damaged ({problem}); {advice}") from error

    def _unusable(self, advice: str, file: Path | None = None) -> SettingError:
        place = "" if file is None or str(file) == str(Path(self.path or "").expanduser()) else f"{file.name} "
        return SettingError("data.source.path", self.path, place + advice)


def _chunks(packed: BinaryIO, ahead: ThreadPoolExecutor, told: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a dump's XML, decompressed if necessary; the next chunk is decompressed meanwhile on another core."""
    is_packed = packed.read(3) == b"BZh"
    packed.seek(0)
    file = cast(BinaryIO, bz2.BZ2File(packed)) if is_packed else packed
    chunk = ahead.submit(file.read, CHUNK)
    while content := chunk.result():
        told(packed.tell())
        chunk = ahead.submit(file.read, CHUNK)
        yield content


def _weight(page: Page | Left) -> int:
    return len(page.text) if isinstance(page, Page) else 0


def _in_natural_order(file: Path) -> list[tuple[int, str]]:
    """Return a sorting key that puts part 2 before part 10."""
    pieces = NUMBER.split(str(file))  # text and numbers in turn
    return [(int(piece), "") if place % 2 else (0, piece) for place, piece in enumerate(pieces)]


def _converted(file: str, dialect: Dialect, base: str, pages: list[Page | Left]) -> list[Article | Left]:
    """Return an outcome for each page: an article, or why it is none."""
    outcomes: list[Article | Left] = []
    for page in pages:
        if isinstance(page, Left):
            outcome: Article | Left = page._replace(name=f"{file}: {page.name}") if page.name else page
        else:
            try:
                outcome = _outcome(page, dialect, base)
            except Exception as error:  # one bad page must not stop the others
                problem = f"cannot be made plain text ({type(error).__name__})"  # its message may hold the page's text
                outcome = Left("unusable", page.page_id, f"{file}: the page {page.title[:80]!r}", problem)
        outcomes.append(outcome)
    return outcomes


def _outcome(page: Page, dialect: Dialect, base: str) -> Article | Left:
    page_id, revision_id, title, timestamp, source = page
    if is_redirect(source, dialect):
        return Left("redirect", page_id)
    if is_disambiguation(source):
        return Left("disambiguation", page_id)
    url = f"{base}/{quote(title.replace(' ', '_'), safe='/:(),')}"
    text = plain_text(source, dialect)
    text.encode()  # half of a surrogate pair is no text
    return Article(page_id, title, text, revision_id, url, timestamp, LICENCE, sha256(source))
