"""Articles from a live MediaWiki, such as Wikipedia, through its API."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from minillm.corpus import wikitext
from minillm.corpus.article import Article, sha256
from minillm.corpus.fingerprint import fingerprint, libraries
from minillm.corpus.lock import LockedRevision, read_lock
from minillm.corpus.sources.left_out import MAX_WARNINGS
from minillm.corpus.sources.mediawiki import MOST_PAGES, MediaWiki
from minillm.corpus.sources.source import Held
from minillm.corpus.wikitext import Dialect, is_disambiguation, is_redirect, plain_text
from minillm.errors import OutsideError, SettingError

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same settings select or yield other articles
LONGEST_TIMEOUT = 86_400  # seconds: a day
ABOUT = {  # shows whether a page is an article, and its revision
    "prop": ["info", "pageprops", "revisions"],
    "inprop": "url",
    "ppprop": "disambiguation",
    "rvprop": ["ids", "timestamp"],
}
CONTENT = {**ABOUT, "rvprop": ["ids", "timestamp", "content"], "rvslots": "main"}
EXTRACT = {**ABOUT, "prop": [*ABOUT["prop"], "extracts"], "explaintext": 1, "exsectionformat": "wiki"}

Page = dict[str, Any]


@dataclass(frozen=True)
class WikipediaSource:
    """Articles of a wiki: chosen at random, by category, by title, or by another corpus's lock.

    The choice is stored before the first text is fetched, so an interrupted run resumes with the same choice, and
    requests nothing again.

    Args:
        api_url: address of the wiki's api.php.
        language: the wiki's language, such as "es"; checked against what the wiki says.
        selection: how articles are chosen: "random", "category" or "titles".
        category: the category to read, with selection "category".
        depth: levels of subcategories to read too; 0 for none.
        titles: the articles to read, with selection "titles": a list, or a text file with a title a line.
        text: "extracts" has the wiki render each article, one a request; "wikitext" asks for up to 50 articles a
            request in the wiki's own form and makes plain text of it here.
        lock: a corpus.lock.json: exactly its revisions are read, by way of their wikitext, whatever else is set here.
        contact: an e-mail or web address that the wiki's operators can write to.
        pages_per_request: pages to ask for at once; never more than the API's 50 whatever is set here.
        timeout: seconds to wait for the wiki's next sign of life.
        retries: further tries of a request that failed in passing.

    Raises:
        SettingError: settings that do not fit together; on use also an address without a MediaWiki API, another
            language, an unknown category, and a file that cannot be read.
    """

    api_url: str = "https://es.wikipedia.org/w/api.php"
    language: str = "es"
    selection: Literal["random", "category", "titles"] = "random"
    category: str | None = None
    depth: int = 0
    titles: list[str] | str | None = None
    text: Literal["extracts", "wikitext"] = "extracts"
    lock: str | None = None
    contact: str | None = None
    pages_per_request: int = MOST_PAGES
    timeout: float = 30.0
    retries: int = 8
    name: ClassVar[str] = "wikipedia"

    def __post_init__(self) -> None:
        if self.selection not in ("random", "category", "titles"):
            raise SettingError("selection", self.selection, "must be random, category or titles")
        if self.text not in ("extracts", "wikitext"):
            raise SettingError("text", self.text, "must be extracts or wikitext")
        if self.selection == "category" and not self.category:
            raise SettingError("category", self.category, "must name a category, such as Física")
        if self.selection == "titles" and not self.titles:
            raise SettingError("titles", self.titles, "must be a list of titles, or a text file with a title a line")
        if self.depth < 0:
            raise SettingError("depth", self.depth, "must be at least 0 levels of subcategories")
        if self.pages_per_request < 1:
            raise SettingError("pages_per_request", self.pages_per_request, f"must be 1 to {MOST_PAGES}")
        if not 0 < self.timeout <= LONGEST_TIMEOUT:  # also refuses NaN
            raise SettingError(
                "timeout", self.timeout, f"must be above 0 and at most {LONGEST_TIMEOUT} seconds, such as 30"
            )
        if self.retries < 0:
            raise SettingError("retries", self.retries, "must be at least 0")

    def describe(self) -> dict[str, Any]:
        """Return the wiki, what is chosen there, and how its text is made."""
        settings: dict[str, Any] = {"version": VERSION, "api_url": self.api_url, "language": self.language}
        if self.lock:
            settings |= {"lock": fingerprint([revision.revision_id for revision in self.revisions])}
        else:
            settings |= {"text": self.text, "selection": self.selection}
            if self.selection == "category":
                settings |= {"category": self.category, "depth": self.depth}
            if self.selection == "titles":
                settings |= {"titles": self.all_titles}
        if self.lock or self.text == "wikitext":
            settings |= {"wikitext": wikitext.VERSION, "libraries": libraries("wikitext")}
        return settings

    def articles(self, limit: int | None, held: Held) -> Iterator[Article]:
        """Yield articles, first the chosen ones that are not held yet; see `Source.articles`."""
        with MediaWiki(self.api_url, self.contact, self.timeout, self.retries) as wiki:
            yield from islice(_Reading(self, wiki, held).articles(limit), limit)

    @cached_property
    def revisions(self) -> list[LockedRevision]:
        """The revisions that the lock names."""
        return read_lock(self.lock or "")

    @cached_property
    def all_titles(self) -> list[str]:
        """The titles to read, each once."""
        titles = self.titles or []
        if isinstance(titles, str):
            try:
                titles = Path(titles).expanduser().read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                problem = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
                advice = f"cannot be read: {problem}; name a text file with a title a line"
                raise SettingError("data.source.titles", self.titles, advice) from error
        stripped = (" ".join(title.replace("_", " ").split()) for title in titles)
        chosen = list(dict.fromkeys(title for title in stripped if title))
        if not chosen:
            raise SettingError("data.source.titles", self.titles, "holds no title")
        return chosen

    @property
    def batch(self) -> int:
        """Pages to ask for at once."""
        return min(self.pages_per_request, MOST_PAGES)


class _Reading:
    """One reading of a wiki: resumes from the notes in ``held``, and stores its progress there.

    Kept are ``counts`` and ``site``; ``selection/0``, ``selection/1``, ...: the page_ids of each batch that was chosen;
    ``selection``: the number of these batches and where the next one begins; ``left_out``: what turned out no article.
    """

    def __init__(self, source: WikipediaSource, wiki: MediaWiki, held: Held) -> None:
        self.source, self.wiki, self.held = source, wiki, held
        self.wiki.counts.update(held.get_meta("counts", {"redirect": 0, "disambiguation": 0, "missing": 0}))
        self.site = self._site()
        self.dialect = Dialect.of_siteinfo(self.site)
        self.about = CONTENT if source.text == "wikitext" else ABOUT
        self.licence = self.site["rightsinfo"].get("text") or self.site["rightsinfo"].get("url") or "CC BY-SA 4.0"
        self.left_out = held.get_meta("left_out", [])  # page_ids of chosen pages that are no articles
        self.came = 0  # articles yielded
        self.gone = 0  # pages that the wiki no longer has

    def articles(self, limit: int | None) -> Iterator[Article]:
        """Yield the chosen articles that are not held, then choose more up to the limit."""
        if self.source.lock:
            yield from self._locked()
            return
        for article in self._texts_of(self._chosen()):
            self.came += 1
            yield article
        for pages in self._choose(limit):
            for article in self._texts(pages):
                self.came += 1
                yield article
        self._count()
        if limit is not None and self.came < limit and self.source.selection != "titles":
            log.warning("%s has no more articles: %d of %d asked for came", self.source.api_url, self.came, limit)

    def _site(self) -> dict[str, Any]:
        """Return the wiki's description of itself, requested once."""
        if site := self.held.get_meta("site"):
            self.wiki.known = True
            return dict(site)
        names = ["general", "namespaces", "namespacealiases", "magicwords", "rightsinfo", "extensions"]
        answer = self.wiki.get(action="query", meta="siteinfo", siprop=names).get("query", {})
        if "namespaces" not in answer:
            raise SettingError("data.source.api_url", self.source.api_url, "is no MediaWiki API: it has no siteinfo")
        site = {name: answer[name] for name in ("namespaces", "namespacealiases", "rightsinfo")}
        site["lang"] = answer["general"]["lang"]
        site["redirect"] = next(word["aliases"] for word in answer["magicwords"] if word["name"] == "redirect")
        if site["lang"].partition("-")[0] != self.source.language:
            advice = f"the wiki at {self.source.api_url} is in {site['lang']!r}; set the language or the api_url"
            raise SettingError("data.source.language", self.source.language, advice)
        site["extracts"] = any(extension.get("name") == "TextExtracts" for extension in answer["extensions"])
        self.held.set_meta("site", site)
        self._count()
        return site

    def _count(self) -> None:
        self.held.set_meta("counts", {name: round(count, 3) for name, count in self.wiki.counts.items()})

    # Choosing

    def _chosen(self) -> list[int]:
        """Return the chosen page_ids that are not held, in the order of choice."""
        batches = self.held.get_meta("selection", {"batches": 0})["batches"]
        chosen = (page_id for number in range(batches) for page_id in self.held.get_meta(f"selection/{number}"))
        return [page_id for page_id in chosen if page_id not in self.held and page_id not in self.left_out]

    def _choose(self, limit: int | None) -> Iterator[list[Page]]:
        """Choose pages in batches until there are enough articles; each batch is stored before it is yielded."""
        state = self.held.get_meta("selection") or {"batches": 0, "place": self._start()}
        while state["place"] is not None and (limit is None or self.came < limit):
            size = self.source.batch if limit is None else min(self.source.batch, limit - self.came)
            pages, place = self._next_pages(state["place"], size)
            pages = [page for page in pages if self._is_article(page) and page["pageid"] not in self.held]
            self.held.set_meta(f"selection/{state['batches']}", [page["pageid"] for page in pages])
            state = {"batches": state["batches"] + 1, "place": place}
            self.held.set_meta("selection", state)
            self._count()
            yield pages

    def _start(self) -> dict[str, Any]:
        """Return the position where choosing begins: plain JSON values that depend on the selection."""
        if self.source.selection == "titles":
            return {"done": 0}
        if self.source.selection == "category":
            return {"queue": [[self._category(), 0]], "seen": [], "continue": {}}
        return {"continue": {}}

    def _next_pages(self, place: dict[str, Any], size: int) -> tuple[list[Page], dict[str, Any] | None]:
        """Return the pages from a position on, and the next position; None: there is none."""
        if self.source.selection == "titles":
            titles = self.source.all_titles[place["done"] : place["done"] + size]
            answer: list[Page] = []
            for pages, _ in self.wiki.pages({}, titles=titles, redirects=1, **self.about):
                answer += pages
            done = place["done"] + size
            return answer, {"done": done} if done < len(self.source.all_titles) else None
        if self.source.selection == "category":
            return self._next_members(place, size)
        # A wiki gives its pages in a fixed order that has nothing to do with them, from a random place in it to the
        # end and from the beginning to that place: following it, no page comes twice, and it ends.
        query = {"generator": "random", "grnnamespace": 0, "grnlimit": size, **self.about}
        pages, rest = next(self.wiki.pages(place["continue"], **query))
        return pages, {"continue": rest} if rest else None

    def _next_members(self, place: dict[str, Any], size: int) -> tuple[list[Page], dict[str, Any] | None]:
        """Return the next articles of the category at the head of the queue."""
        category, depth = place["queue"][0]
        members = {"generator": "categorymembers", "gcmtitle": category, "gcmlimit": size}
        query = {**members, "gcmtype": "page", "gcmnamespace": 0, **self.about}
        pages, rest = next(self.wiki.pages(place["continue"], **query))
        if rest:
            return pages, {**place, "continue": rest}
        seen = [*place["seen"], category]
        queue = place["queue"][1:]
        if depth < self.source.depth:
            query = {"generator": "categorymembers", "gcmtitle": category, "gcmtype": "subcat", "gcmlimit": MOST_PAGES}
            found = [page["title"] for batch, _ in self.wiki.pages({}, **query) for page in batch]
            known = {*seen, *(title for title, _ in queue)}
            queue += [[title, depth + 1] for title in found if title not in known]
        return pages, {"queue": queue, "seen": seen, "continue": {}} if queue else None

    def _category(self) -> str:
        """Return the category's full name.

        Raises:
            SettingError: the wiki has no such category.
        """
        name = self.source.category or ""
        if name.partition(":")[0].strip().casefold() not in self.dialect.categories:
            name = f"Category:{name}"
        (pages, _) = next(self.wiki.pages({}, titles=name, prop="categoryinfo"))
        if not pages or ("categoryinfo" not in pages[0] and "missing" in pages[0]) or "invalid" in pages[0]:
            advice = f"the wiki at {self.source.api_url} has no such category"
            raise SettingError("data.source.category", self.source.category, advice)
        return str(pages[0]["title"])

    def _is_article(self, page: Page) -> bool:
        """Return whether a page is an article; otherwise count the reason, and never request it again."""
        if "pageid" not in page or "revisions" not in page:
            self._leave_out(page, "missing")
        elif "redirect" in page:
            self._leave_out(page, "redirect")
        elif "disambiguation" in page.get("pageprops", {}):
            self._leave_out(page, "disambiguation")
        else:
            return True
        return False

    def _leave_out(self, page: Page, reason: str) -> None:
        self.wiki.counts[reason] += 1
        self.left_out.append(page.get("pageid"))
        self.held.set_meta("left_out", self.left_out)
        if reason == "missing":
            self._miss(page.get("title") or f"with page_id {page.get('pageid')}")

    def _miss(self, name: str) -> None:
        self.gone += 1
        if self.gone <= MAX_WARNINGS:
            log.warning("%s has no page %s (any more)", self.source.api_url, name)

    # Fetching

    def _texts_of(self, page_ids: list[int]) -> Iterator[Article]:
        """Yield the chosen articles, in order."""
        if self.source.text == "extracts":
            yield from self._texts([{"pageid": page_id} for page_id in page_ids])
            return
        for batch in _batches(page_ids, self.source.batch):
            found = {
                page["pageid"]: page for pages, _ in self.wiki.pages({}, pageids=batch, **CONTENT) for page in pages
            }
            yield from self._texts(
                [page for page_id in batch if self._is_article(page := found.get(page_id, {"pageid": page_id}))]
            )

    def _texts(self, pages: list[Page]) -> Iterator[Article]:
        """Yield the articles of pages."""
        for page in pages:
            article = (
                self._extract(page) if self.source.text == "extracts" else self._from_wikitext(page, _newest(page))
            )
            self._count()
            if article:
                yield article

    def _extract(self, page: Page) -> Article | None:
        """Return an article as the wiki renders it; the API gives one whole extract per request."""
        if self.site["extracts"] is False:
            raise SettingError(
                "data.source.text", "extracts", "the wiki lacks the TextExtracts extension; use wikitext"
            )
        ((answer,), _) = next(self.wiki.pages({}, pageids=page["pageid"], **EXTRACT))
        return self._article(answer, _newest(answer), answer.get("extract", "")) if self._is_article(answer) else None

    def _from_wikitext(self, page: Page, revision: dict[str, Any]) -> Article | None:
        """Return the article of a revision; None: it is hidden, or no article."""
        source = revision.get("slots", {}).get("main", {}).get("content")
        if source is None:
            self._leave_out(page, "missing")
        elif is_redirect(source, self.dialect):
            self._leave_out(page, "redirect")
        elif is_disambiguation(source):
            self._leave_out(page, "disambiguation")
        else:
            return self._article(page, revision, plain_text(source, self.dialect), sha256(source))
        return None

    def _article(self, page: Page, revision: dict[str, Any], text: str, wikitext_sha256: str = "") -> Article:
        return Article(
            page_id=page["pageid"],
            title=page["title"],
            text=text,
            revision_id=revision["revid"],
            url=page.get("canonicalurl") or page.get("fullurl", ""),
            timestamp=revision["timestamp"],
            licence=self.licence,
            wikitext_sha256=wikitext_sha256,
        )

    # A lock

    def _locked(self) -> Iterator[Article]:
        """Yield the lock's revisions in its order; report those that are gone or differ."""
        locked = [revision for revision in self.source.revisions if revision.page_id not in self.held]
        if not all(revision.wikitext for revision in locked):
            log.warning(
                "%s was made from extracts: its revisions are read, their text cannot be compared", self.source.lock
            )
        for batch in _batches(locked, self.source.batch):
            found: dict[int, tuple[Page, dict[str, Any]]] = {}
            for pages, _ in self.wiki.pages({}, revids=[revision.revision_id for revision in batch], **CONTENT):
                for page in pages:
                    found |= {revision["revid"]: (page, revision) for revision in page.get("revisions", [])}
            self._count()
            for expected in batch:
                if expected.revision_id not in found:
                    self.wiki.counts["missing"] += 1
                    self._miss(f"{expected.title} in revision {expected.revision_id}")
                    continue
                page, revision = found[expected.revision_id]
                article = self._from_wikitext(page, revision)
                if article and expected.wikitext and article.wikitext_sha256 != expected.sha256:
                    problem = f"revision {expected.revision_id} of {expected.title} is not what the lock says"
                    raise OutsideError(f"{self.source.lock}: {problem}: its SHA-256 is {article.wikitext_sha256}")
                if article:
                    yield article
        if self.gone:
            self._count()
            log.warning(
                "%d of the %d revisions of %s are gone", self.gone, len(self.source.revisions), self.source.lock
            )


def _newest(page: Page) -> dict[str, Any]:
    return dict(page["revisions"][0])


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
