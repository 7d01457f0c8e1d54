import bz2
import logging
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.corpus import Article, Corpus, DumpSource, DuplicateFilter, RawStore
from minillm.errors import OutsideError, SettingError

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="es"><siteinfo>
<sitename>Prueba</sitename><base>https://es.example.org/wiki/Portada</base><namespaces><namespace key="0" />
<namespace key="6">Fichero</namespace><namespace key="14">Clase</namespace></namespaces></siteinfo>
"""
KEEP_ALL = DuplicateFilter(exact=False, near=False)
PROSE = "El pueblo {n} fue fundado por los colonos en el valle, junto al río, y creció deprisa con el comercio. "


def page(number: int, text: str, space: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>Página {number}</title><ns>{space}</ns><id>{number}</id>{extra}"
        f"<revision><id>{1000 + number}</id><timestamp>2024-01-01T00:00:00Z</timestamp>"
        f'<text xml:space="preserve">{text}</text></revision></page>\n'
    )


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A dump of 300 articles among pages of other kinds."""
    file = tmp_path / "wiki.xml"
    pages = [page(number, f"'''{PROSE.format(n=number)}'''[[Fichero:x.jpg|a]][[Clase:b]]" * 8) for number in range(300)]
    pages[50:50] = [
        page(1001, "#REDIRECCIÓN [[Página 1]]", extra='<redirect title="Página 1" />'),
        page(1002, "#redirect [[Página 1]]"),
        page(1003, "'''Sol''' puede referirse a:\n* uno\n{{desambiguación}}"),
        page(1004, PROSE, space=1),
        page(1005, PROSE, space=10),
    ]
    file.write_text(f"{HEADER}{''.join(pages)}</mediawiki>\n", encoding="utf-8")
    return file


def read(source: DumpSource, store_path: Path, limit: int | None = None) -> list[Article]:
    with RawStore(store_path) as store:
        for article in source.articles(limit, store):
            assert store.add(article)
        return list(store)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_articles_of_the_main_namespace_come_in_order(dump: Path, tmp_path: Path, processes: int) -> None:
    articles = read(DumpSource(str(dump), processes), tmp_path / "store.sqlite")
    assert [article.page_id for article in articles] == list(range(300))
    assert articles[7].text == (PROSE.format(n=7) * 8).strip()
    assert (articles[7].revision_id, articles[7].timestamp) == (1007, "2024-01-01T00:00:00Z")
    assert articles[7].url == "https://es.example.org/wiki/P%C3%A1gina_7"
    assert articles[7].licence == "CC BY-SA 4.0"
    assert articles[7].wikitext_sha256


def test_what_is_no_article_is_counted(dump: Path, tmp_path: Path) -> None:
    with RawStore(tmp_path / "store.sqlite") as store:
        assert sum(1 for _ in DumpSource(str(dump), 1).articles(None, store)) == 300
        assert store.get_meta("counts") == {"redirect": 2, "disambiguation": 1}


def test_a_packed_dump_gives_the_same(dump: Path, tmp_path: Path) -> None:
    packed = tmp_path / "wiki.xml.bz2"
    packed.write_bytes(bz2.compress(dump.read_bytes()))
    plain = read(DumpSource(str(dump), 1), tmp_path / "a.sqlite")
    assert read(DumpSource(str(packed), 1), tmp_path / "b.sqlite") == plain


def test_a_limit_takes_the_next_articles(dump: Path, tmp_path: Path) -> None:
    source = DumpSource(str(dump), 1)
    assert [article.page_id for article in read(source, tmp_path / "store.sqlite", 20)] == list(range(20))
    assert [article.page_id for article in read(source, tmp_path / "store.sqlite", 20)] == list(range(40))


def prepare(path: Path, folder: Path) -> None:
    Corpus(DumpSource(str(path), 1), folder, num_articles=None, min_length=1, duplicates=KEEP_ALL).prepare()


def test_reading_goes_on_after_sigkill(dump: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(10):
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(dump, tmp_path / "data"))
        process.start()
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
    prepare(dump, tmp_path / "data")
    (raw,) = (tmp_path / "data" / "raw").glob("*.sqlite")
    with RawStore(raw) as store:
        assert [article.page_id for article in store] == list(range(300))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("pack", [lambda content: cut(content), lambda content: cut(bz2.compress(content, 1))])
def test_a_dump_cut_off_in_the_middle_keeps_what_came_before(
    dump: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    whole = dump.read_bytes()
    # Text that packs badly: half of the packed file still holds articles.
    noise = random.Random(0)
    more = "".join(page(n, " ".join(str(noise.random()) for _ in range(200))) for n in range(5000, 5600)).encode()
    damaged = tmp_path / "cut.xml.bz2"
    damaged.write_bytes(pack(whole.replace(b"</mediawiki>", more + b"</mediawiki>")))
    corpus = Corpus(
        DumpSource(str(damaged), 1), tmp_path / "data", num_articles=None, min_length=1, duplicates=KEEP_ALL
    )
    with pytest.raises(OutsideError, match=r"the dump is cut off or damaged \(.*data\.num_articles=\.\.\.") as caught:
        corpus.prepare()
    assert "\n" not in str(caught.value)
    assert "the " in str(caught.value)
    settings: dict[str, Any] = {"num_articles": 100, "min_length": 1, "duplicates": KEEP_ALL}
    assert Corpus(DumpSource(str(damaged), 1), tmp_path / "data", **settings).manifest["funnel"]["read"] == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", b"", "is no dump of a wiki"),
        ("a.xml", b"nada", "is no dump of a wiki"),
        ("a.xml", b"<html><body>nada</body></html>", "is no dump of a wiki: it has no header"),
        ("a.xml.bz2", b"nada que ver" * 100, "is no dump of a wiki"),
        ("a.xml.bz2", b"BZh9" + b"nada que ver" * 100, "cannot be read: Invalid data stream"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match=rf"^data\.source\.path=.*: {message}") as caught:
        read(DumpSource(str(tmp_path / name), 1), tmp_path / "store.sqlite")
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^path=None: must name a dump"):
        DumpSource()
    with pytest.raises(SettingError, match=r"^processes=0: must be at least 1"):
        DumpSource("x", 0)
    for path in tmp_path / "nada", tmp_path:
        with pytest.raises(SettingError, match=r"^data\.source\.path=.*: cannot be read"):
            Corpus(DumpSource(str(path)), tmp_path / "data").prepare()


def test_the_reader_says_nothing_while_all_is_well(
    dump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        prepare(dump, tmp_path / "data")
    assert caplog.text == ""
