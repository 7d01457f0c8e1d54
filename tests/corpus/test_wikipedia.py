import contextlib
import json
import logging
import multiprocessing
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from minillm.corpus import (
    ATTRIBUTION,
    LOCK,
    SPLITS,
    Article,
    Cleaner,
    Corpus,
    DumpSource,
    DuplicateFilter,
    RawStore,
    WikipediaSource,
)
from minillm.corpus.sources import mediawiki
from minillm.errors import MiniLLMError, OutsideError, SettingError
from tests.corpus.mediawiki import Wiki
from tests.corpus.proxy import FAULTS, Proxy, proxy_before

pytestmark = pytest.mark.mediawiki
WAYS = ("extracts", "wikitext")
KEEP_ALL = DuplicateFilter(exact=False, near=False)


@pytest.fixture
def proxy(wiki: Wiki) -> Iterator[Proxy]:
    with proxy_before(wiki.api_url) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediawiki, "FIRST_WAIT", 0.001)


def read(source: WikipediaSource, path: Path, limit: int | None = None) -> list[Article]:
    with RawStore(path) as store:
        for article in source.articles(limit, store):
            assert store.add(article)
        return list(store)


def clean(articles: list[Article]) -> dict[str, str]:
    return {article.title: Cleaner().clean(article.text)[0] for article in articles}


# Both ways to get text


@pytest.mark.parametrize(("text", "requests"), [("extracts", 1 + 7 + 300), ("wikitext", 1 + 7)])
def test_all_articles_come_with_the_expected_text_in_few_requests_and_then_in_none(
    wiki: Wiki, proxy: Proxy, tmp_path: Path, text: Any, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    def corpus(num_articles: int) -> Corpus:
        source = WikipediaSource(proxy.api_url, text=text)
        return Corpus(source, tmp_path, num_articles=num_articles, min_length=1, duplicates=KEEP_ALL)

    first = corpus(300)
    reading = first.manifest["reading"]
    # Disambiguation pages are found out while choosing: their places are filled by one further choice.
    assert requests <= len(proxy.requests) <= requests + 1
    assert reading["requests"] == len(proxy.requests)
    assert (reading["requested"], reading["fetched"], reading["redirect"]) == (300, 300, 0)
    rows = [row for split in SPLITS for row in first.articles(split)]
    assert {row["title"]: row["text"] for row in rows} == wiki.texts
    assert all(row["licence"] == "Creative Commons Atribución-CompartirIgual 4.0" for row in rows)
    assert all(row["url"].startswith("http") and row["revision_id"] and row["timestamp"] for row in rows)
    before = len(proxy.requests)
    assert corpus(300).prepare() == first.prepare()
    assert len(proxy.requests) == before
    with caplog.at_level(logging.WARNING):
        assert corpus(1000).manifest["funnel"]["read"] == 300
    assert "has no more articles: 0 of 700 asked for came" in caplog.text
    assert len(proxy.requests) <= before + 1
    assert corpus(2000).prepare() == corpus(1000).prepare()
    assert len(proxy.requests) <= before + 1


def test_the_funnel_counts_what_became_of_every_page(wiki: Wiki, tmp_path: Path) -> None:
    source = WikipediaSource(wiki.api_url, text="wikitext")
    manifest = Corpus(source, tmp_path, num_articles=None).manifest
    assert {**manifest["reading"], "bytes": 0, "seconds": 0} == {
        **{"requested": None, "fetched": 300, "redirect": 0, "disambiguation": 4, "missing": 0},
        **{"requests": 8, "bytes": 0, "seconds": 0},
    }
    assert manifest["reading"]["bytes"] > 100_000
    assert 0 < manifest["reading"]["seconds"] < 60
    funnel = manifest["funnel"]
    assert (funnel["read"], funnel["too short"], funnel["exact duplicate"], funnel["kept"]) == (300, 5, 3, 292)


def test_requests_are_polite_and_ask_for_fifty_pages_at_most(proxy: Proxy, tmp_path: Path) -> None:
    source = WikipediaSource(proxy.api_url, text="wikitext", pages_per_request=500, contact="yo@ejemplo.org")
    read(source, tmp_path / "a.sqlite", 120)
    assert {request.get("grnlimit", "50") for request in proxy.requests[:3]} == {"50"}
    assert all(request["maxlag"] == "5" for request in proxy.requests)
    assert re.match(r"miniLLM/[\d.]+ \(yo@ejemplo\.org\) ", proxy.headers["User-Agent"])
    assert "gzip" in proxy.headers["Accept-Encoding"]
    titles = [f"Artículo {number}" for number in range(1, 121)]
    source = WikipediaSource(proxy.api_url, text="wikitext", pages_per_request=500, selection="titles", titles=titles)
    assert len(read(source, tmp_path / "b.sqlite")) == 120
    asked = [len(request["titles"].split("|")) for request in proxy.requests if "titles" in request]
    assert asked == [50, 50, 20]


# Choosing


def test_random_articles_are_others_each_time_and_few_when_few_are_asked_for(wiki: Wiki, tmp_path: Path) -> None:
    source = WikipediaSource(wiki.api_url, text="wikitext")
    choices = [[article.page_id for article in read(source, tmp_path / f"{n}.sqlite", 20)] for n in range(3)]
    assert [len(set(choice)) for choice in choices] == [20, 20, 20]
    assert choices[0] != choices[1] != choices[2]


@pytest.mark.parametrize("category", ["Pares", "Categoría:Pares", "category:pares"])
def test_a_category_is_read_with_and_without_its_subcategories(wiki: Wiki, tmp_path: Path, category: str) -> None:
    for depth, count in (0, 147), (1, 295), (5, 295):
        source = WikipediaSource(
            wiki.api_url, text="wikitext", selection="category", category=category, depth=depth, pages_per_request=40
        )
        titles = {article.title for article in read(source, tmp_path / f"{depth}.sqlite")}
        assert len(titles) == count
        assert "Artículo 2" in titles
        assert ("Artículo 1" in titles) == (depth > 0)


def test_a_category_is_gone_on_with_where_it_was(proxy: Proxy, tmp_path: Path) -> None:
    source = WikipediaSource(proxy.api_url, text="wikitext", selection="category", category="Pares")
    assert len(read(source, tmp_path / "store.sqlite", 60)) == 60
    assert len(read(source, tmp_path / "store.sqlite", 60)) == 120
    assert len(proxy.requests) == 1 + 1 + 2 + 2  # siteinfo, the category, and two batches each time


@pytest.mark.parametrize("text", WAYS)
def test_titles_may_be_blank_doubled_redirects_or_missing(
    wiki: Wiki, tmp_path: Path, text: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "títulos.txt"
    lines = [
        "\ufeffArtículo 7",
        "",
        "Artículo_3",
        "  ",
        "Artículo 7 ",
        "Redirección 5",
        "No existe",
        "<mal>",
        "Lugar 1",
    ]
    file.write_text("\r\n".join(lines), encoding="utf-8")
    source = WikipediaSource(wiki.api_url, text=text, selection="titles", titles=str(file))
    with caplog.at_level(logging.WARNING), RawStore(tmp_path / "store.sqlite") as store:
        for article in source.articles(None, store):
            store.add(article)
        assert {article.title for article in store} == {"Artículo 3", "Artículo 5", "Artículo 7"}
        assert store.get_meta("counts")["missing"] == 2
        assert store.get_meta("counts")["disambiguation"] == 1
    assert "has no page No existe (any more)" in caplog.text


# Faults


@pytest.mark.parametrize(
    ("text", "number", "seed"), [("wikitext", 300, 0), pytest.param("extracts", 100, 1, marks=pytest.mark.long)]
)
def test_with_a_third_of_the_requests_spoiled_the_same_articles_come(
    wiki: Wiki, tmp_path: Path, impatient: None, text: Any, number: int, seed: int
) -> None:
    titles = sorted(wiki.texts)[:number]
    settings: dict[str, Any] = {"text": text, "selection": "titles", "titles": titles, "pages_per_request": 3}
    with proxy_before(wiki.api_url, FAULTS, seed=seed) as proxy:
        articles = read(WikipediaSource(proxy.api_url, retries=20, timeout=0.5, **settings), tmp_path / "faults.sqlite")
        assert set(proxy.injected) == set(FAULTS)
        assert len(proxy.injected) > len(proxy.requests) / 4
    calm = read(WikipediaSource(wiki.api_url, **settings), tmp_path / "calm.sqlite")
    assert articles == calm
    assert clean(articles) == {title: wiki.texts[title] for title in titles}


def test_retry_after_is_honoured_within_an_hour(wiki: Wiki, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    client = mediawiki.MediaWiki("http://127.0.0.1:9/api.php", retries=1)
    for header, seconds in (
        *(("2", 2), ("0.5", 0.5), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)),
        *(("inf", 3600), ("1e999", 3600), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600), ("nan", 0), ("-5", 0)),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", 0),
    ):
        waits: list[float] = []
        monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
        answers = iter([httpx.Response(429, headers={"Retry-After": header}), httpx.Response(200, json={})])
        monkeypatch.setattr(client._client, "get", lambda *_, answers=answers, **__: with_bytes(next(answers)))
        assert client.get() == {}
        assert seconds <= waits[0] < seconds + 0.1


def with_bytes(response: Any) -> Any:
    response._num_bytes_downloaded = 0
    return response


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_ends_in_one_line_that_says_what_is_safe(
    wiki: Wiki, tmp_path: Path, impatient: None, fault: str
) -> None:
    with proxy_before(wiki.api_url) as proxy:
        source = WikipediaSource(proxy.api_url, retries=2, timeout=0.5 if fault == "stall" else 5.0)
        settings: dict[str, Any] = {"min_length": 1, "duplicates": KEEP_ALL, "split": (1, 0, 0)}
        Corpus(source, tmp_path, num_articles=20, **settings).prepare()
        proxy.faults, proxy.share = (fault,), 1.0
        before = len(proxy.requests)
        with pytest.raises(MiniLLMError, match=r"after 3 tries") as caught:
            Corpus(source, tmp_path, num_articles=60, **settings).prepare()
        assert len(proxy.requests) == before + 3
        assert "\n" not in str(caught.value)
        assert "the 20 articles read so far are kept: run the same command again to continue" in str(caught.value)
        proxy.faults = ()
        corpus = Corpus(source, tmp_path, num_articles=60, **settings)
        assert corpus.manifest["funnel"]["read"] == 60


def prepare(api_url: str, text: Any, folder: Path) -> None:
    source = WikipediaSource(api_url, text=text, pages_per_request=10)
    Corpus(source, folder, num_articles=None, min_length=1, duplicates=KEEP_ALL).prepare()


@pytest.mark.parametrize(("text", "kills"), [("extracts", 20), ("wikitext", 20)])
def test_sigkill_at_any_moment_loses_nothing_and_asks_nothing_twice(
    wiki: Wiki, proxy: Proxy, tmp_path: Path, text: str, kills: int
) -> None:
    moments = random.Random(0)
    fork = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = fork.Process(target=prepare, args=(proxy.api_url, text, tmp_path))
        process.start()
        time.sleep(moments.uniform(0, 0.6 if text == "extracts" else 0.15))
        assert process.pid
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    prepare(proxy.api_url, text, tmp_path)
    (raw,) = (tmp_path / "raw").glob("*.sqlite")
    with RawStore(raw) as store:
        articles = list(store)
        batches = store.get_meta("selection")["batches"]
        chosen = [page_id for number in range(batches) for page_id in store.get_meta(f"selection/{number}")]
    assert [article.page_id for article in articles] == chosen  # one choice, made once, read in its order
    assert clean(articles) == wiki.texts
    uninterrupted = 1 + 31 + (300 if text == "extracts" else 0)
    assert len(proxy.requests) <= uninterrupted + kills


def test_a_second_process_waits_for_the_first(wiki: Wiki, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare, args=(wiki.api_url, "wikitext", tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (folder,) = (tmp_path / "corpus").iterdir()
    assert json.loads((folder / "manifest.json").read_text())["reading"]["fetched"] == 300


# Integrity


def test_damage_anywhere_in_the_store_is_noticed_and_no_wrong_text_gets_through(
    wiki: Wiki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def texts(min_length: int) -> dict[str, str]:
        source = WikipediaSource(wiki.api_url, text="wikitext")
        corpus = Corpus(source, tmp_path, num_articles=100, min_length=min_length, duplicates=KEEP_ALL)
        return {row["title"]: row["text"] for split in SPLITS for row in corpus.articles(split)}

    assert len(texts(0)) == 100
    (raw,) = (tmp_path / "raw").glob("*.sqlite")
    whole, before = raw.read_bytes(), rows(raw)
    chance = random.Random(0)
    damages = 0
    for number in range(50):
        place = chance.randrange(len(whole))
        raw.write_bytes(whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :])
        damaged = rows(raw) != before  # SQLite leaves parts of its pages unused: they hold nothing to damage
        damages += damaged
        shutil.rmtree(tmp_path / "corpus")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert texts(number % 20).items() <= wiki.texts.items()
        if damaged:
            assert "is damaged and is fetched again" in caplog.text or "renamed to" in caplog.text
        with RawStore(raw) as store:
            assert not store.damaged()
    assert damages >= 25


def rows(raw: Path) -> Any:
    """Return all that a store holds; the error where it cannot be read."""
    with contextlib.closing(sqlite3.connect(f"file:{raw}?mode=ro&immutable=1", uri=True)) as connection:
        try:
            return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("articles", "meta")]
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return str(error)


def test_a_damaged_article_is_fetched_again_into_its_place(
    wiki: Wiki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = WikipediaSource(wiki.api_url, text="extracts")
    before = Corpus(source, tmp_path, num_articles=120, min_length=1, duplicates=KEEP_ALL)
    before.prepare()
    (raw,) = (tmp_path / "raw").glob("*.sqlite")
    with RawStore(raw) as store:
        articles = list(store)
        store._connection.execute(
            "UPDATE articles SET text = 'Otro.' WHERE page_id IN (?, ?)", (articles[3].page_id, articles[7].page_id)
        )
    with caplog.at_level(logging.WARNING):
        Corpus(source, tmp_path, num_articles=120, min_length=2, duplicates=KEEP_ALL).prepare()
    assert f"article {articles[3].page_id} ({articles[3].title}) is damaged and is fetched again" in caplog.text
    with RawStore(raw) as store:
        assert list(store) == articles


# The lock


def test_a_lock_brings_the_same_corpus_back(wiki: Wiki, tmp_path: Path, proxy: Proxy) -> None:
    source = WikipediaSource(wiki.api_url, text="wikitext")
    corpus = Corpus(source, tmp_path / "a", num_articles=120)
    lock = corpus.prepare() / LOCK
    content = json.loads(lock.read_text(encoding="utf-8"))
    assert len(content["articles"]) == 120
    assert set(content["articles"][0]) == {"page_id", "revision_id", "sha256", "title", "wikitext"}
    again = Corpus(WikipediaSource(proxy.api_url, lock=str(lock)), tmp_path / "b", num_articles=120)
    for split in SPLITS:
        # The port is another one.
        assert (
            again.articles(split).remove_columns("url").to_list()
            == corpus.articles(split).remove_columns("url").to_list()
        )
    assert (again.prepare() / LOCK).read_text() == lock.read_text()
    assert len(proxy.requests) == 1 + 3
    assert all(len(request.get("revids", "").split("|")) <= 50 for request in proxy.requests)


def test_a_revision_that_is_gone_is_reported_and_one_that_differs_refused(
    wiki: Wiki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = Corpus(WikipediaSource(wiki.api_url, text="wikitext"), tmp_path / "a", num_articles=60)
    content = json.loads((corpus.prepare() / LOCK).read_text(encoding="utf-8"))
    gone = tmp_path / "gone.json"
    del content["sha256"]  # it is changed by hand
    content["articles"][5] |= {"revision_id": 999_999, "page_id": 999_999}
    gone.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        source = WikipediaSource(wiki.api_url, lock=str(gone))
        assert Corpus(source, tmp_path / "b").manifest["reading"]["fetched"] == 59
    assert f"has no page {content['articles'][5]['title']} in revision 999999" in caplog.text
    assert "1 of the 60 revisions" in caplog.text
    content["articles"][7]["sha256"] = "0" * 64
    gone.write_text(json.dumps(content))
    with pytest.raises(OutsideError, match=r"revision \d+ of .* is not what the lock says"):
        Corpus(WikipediaSource(wiki.api_url, lock=str(gone)), tmp_path / "c").prepare()


def test_every_article_is_attributed(wiki: Wiki, tmp_path: Path) -> None:
    corpus = Corpus(WikipediaSource(wiki.api_url, text="wikitext"), tmp_path, num_articles=None)
    head, *lines = (corpus.prepare() / ATTRIBUTION).read_text(encoding="utf-8").splitlines()
    assert head == "title\turl\trevision_id\tlicence"
    assert len(lines) == corpus.manifest["funnel"]["kept"] == 292
    title, url, revision_id, licence = lines[0].split("\t")
    assert url.startswith("http://127.0.0.1")
    assert licence.startswith("Creative Commons")
    assert title in wiki.texts
    assert int(revision_id)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"category": "No hay tal"}, r"^data\.source\.category=No hay tal: the wiki at .* has no such category"),
        ({"language": "ca"}, r"^data\.source\.language=ca: the wiki at .* is in 'es'"),
        ({"api_url": "/index.php"}, r"^data\.source\.api_url=.*: is no MediaWiki API"),
        ({"api_url": "/nada.php"}, r"^data\.source\.api_url=.*: is no MediaWiki API: it answers HTTP 404"),
        ({"titles": "/no/file"}, r"^data\.source\.titles=/no/file: cannot be read: No such file"),
        ({"titles": [" ", ""]}, r"^data\.source\.titles=.*: holds no title"),
        ({"lock": "/no/file"}, r"^data\.source\.lock=/no/file: cannot be read"),
        ({"lock": __file__}, r"^data\.source\.lock=.*: is not a corpus\.lock\.json"),
    ],
)
def test_settings_that_name_nothing_are_refused(
    wiki: Wiki, tmp_path: Path, impatient: None, settings: dict[str, Any], message: str
) -> None:
    settings = {"api_url": wiki.api_url, "retries": 1, **settings}
    if settings["api_url"].startswith("/"):
        settings["api_url"] = wiki.api_url.replace("/api.php", settings["api_url"])
    for selection in ("category", "titles"):
        if selection in settings:
            settings["selection"] = selection
    with pytest.raises(SettingError, match=message) as caught:
        Corpus(WikipediaSource(**settings), tmp_path).prepare()
    assert "\n" not in str(caught.value)


def test_without_a_network_the_advice_is_clear(wiki: Wiki, tmp_path: Path, impatient: None) -> None:
    for address in "http://127.0.0.1:9/api.php", "http://no.such.host.invalid/api.php":
        with pytest.raises(OutsideError, match=r"cannot be reached after 4 tries .*data=sample works offline$"):
            Corpus(WikipediaSource(address), tmp_path).prepare()


def test_a_wiki_without_extracts_is_refused_with_the_way_that_works(wiki: Wiki, tmp_path: Path) -> None:
    with RawStore(tmp_path / "store.sqlite") as store:
        source = WikipediaSource(wiki.api_url)
        next(source.articles(1, store))
        store.set_meta("site", {**store.get_meta("site"), "extracts": False})
        with pytest.raises(SettingError, match=r"^data\.source\.text=extracts: .*use wikitext"):
            next(source.articles(1, store))


# The script


def test_prepare_does_the_etl_alone(wiki: Wiki, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/prepare.py", "data=wikipedia", f"data.source.api_url={wiki.api_url}"]
    command += ["data.source.text=wikitext", "data.num_articles=200", f"paths.data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert re.search(r"fetched\W+200", done.stdout)
    for name in (ATTRIBUTION, LOCK):
        (file,) = (tmp_path / "corpus").glob(f"*/{name}")
        assert str(file) in done.stdout


def test_a_dump_of_the_wiki_gives_the_same_texts(wiki: Wiki, tmp_path: Path) -> None:
    file = tmp_path / "dump.xml"
    file.write_bytes(wiki.maintenance("dumpBackup.php", "--current", "--quiet"))
    with RawStore(tmp_path / "dump.sqlite") as store:
        articles = {article.page_id: article for article in DumpSource(str(file), 1).articles(None, store)}
        assert store.get_meta("counts") == {"redirect": 8, "disambiguation": 4}
    assert clean(list(articles.values())) == wiki.texts
    for other in read(WikipediaSource(wiki.api_url, text="wikitext"), tmp_path / "api.sqlite"):
        article = articles[other.page_id]
        assert (article.text, article.title, article.revision_id) == (other.text, other.title, other.revision_id)
        assert (article.wikitext_sha256, article.timestamp) == (other.wikitext_sha256, other.timestamp)
        assert article.url == other.url
