import bz2
import contextlib
import logging
import multiprocessing
import os
import pty
import random
import re
import subprocess
import sys
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
    with pytest.raises(SettingError, match=r"^max_page_bytes=0: must be at least 1"):
        DumpSource("x", max_page_bytes=0)
    for path, message in (
        ("nada", "cannot be read: No such file"),
        ("", "holds no dump: there is no .xml or .xml.bz2 file"),
        ("*.xml", "matches no file"),
    ):
        with pytest.raises(SettingError, match=rf"^data\.source\.path=.*: {message}"):
            Corpus(DumpSource(str(tmp_path / path)), tmp_path / "data").prepare()


def test_the_reader_says_nothing_while_all_is_well(
    dump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        prepare(dump, tmp_path / "data")
    assert caplog.text == ""


BAD_PAGES = {
    "no id": (page(900, PROSE).replace("<id>900</id>", ""), "'Página 900' has no <id>"),
    "an empty id": (page(900, PROSE).replace("<id>900</id>", "<id />"), "'Página 900' has no <id>"),
    "letters as id": (page(900, PROSE).replace("<id>900</id>", "<id>abc</id>"), "'Página 900' has no <id>"),
    "a superscript as id": (page(900, PROSE).replace("<id>900</id>", "<id>²</id>"), "'Página 900' has no <id>"),
    "too large an id": (page(900, PROSE).replace("<id>900</id>", f"<id>{2**70}</id>"), "'Página 900' has no <id>"),
    "too large a revision": (page(900, PROSE).replace(">1900<", f">{2**63}<"), "'Página 900' has a revision without"),
    "no revision": (re.sub("<revision>.*</revision>", "", page(900, PROSE)), "'Página 900' has no revision"),
    "no title": (page(900, PROSE).replace("<title>Página 900</title>", ""), r"the page at byte [\d,]+ .* has no title"),
    "too long a title": (page(900, PROSE).replace("Página", "P" * 5000), r"the page at byte [\d,]+ .* has no title"),
    "no time": (re.sub("<timestamp>.*</timestamp>", "", page(900, PROSE)), "'Página 900' has no timestamp"),
}


def broken(dump: Path, pages: str) -> None:
    """Put pages in the middle of a dump."""
    before, end, after = dump.read_text(encoding="utf-8").partition("<title>Página 150</title>")
    start = before.rindex("<page>")
    dump.write_text(before[:start] + pages + before[start:] + end + after, encoding="utf-8")


@pytest.mark.parametrize("case", BAD_PAGES)
def test_a_bad_page_is_named_and_counted_and_the_others_are_read(
    dump: Path, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, message = BAD_PAGES[case]
    broken(dump, bad)
    with RawStore(tmp_path / "store.sqlite") as store:
        articles = list(DumpSource(str(dump), 1).articles(None, store))
        counts = store.get_meta("counts")
    assert [article.page_id for article in articles] == list(range(300))
    assert counts == {"redirect": 2, "disambiguation": 1, "unusable": 1}
    assert re.search(f"left out: .*{message}", caplog.text)
    assert "1 pages could not be used" in caplog.text
    assert "colonos" not in caplog.text  # no page's text


def test_bad_pages_are_counted_the_same_however_often_and_by_whomever_the_dump_is_read(
    dump: Path, tmp_path: Path
) -> None:
    broken(dump, "".join(bad for bad, _ in BAD_PAGES.values()) + page(3, "Otra vez."))
    expected = {"redirect": 2, "disambiguation": 1, "unusable": len(BAD_PAGES), "repeated": 1}
    for name, processes, steps in (
        ("a", 1, (None,)),
        ("b", 2, (None,)),
        ("c", 1, (40, 120, None)),
        ("d", 2, (170, None)),
    ):
        with RawStore(tmp_path / name) as store:
            for step in steps:
                for article in DumpSource(str(dump), processes).articles(step, store):
                    store.add(article)
            assert store.get_meta("counts") == expected
            assert [article.page_id for article in store] == list(range(300))
            # An article that is fetched again leaves the counts as they are.
            (again,) = DumpSource(str(dump), processes).articles(1, store.without([7]))
            assert again.page_id == 7
            assert store.get_meta("counts") == expected


def test_a_page_whose_text_cannot_be_made_plain_is_left_out(
    dump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: str, dialect: Any) -> str:
        if "pueblo 7 " in source:
            raise ValueError(f"invalid literal: {source}")
        return source

    monkeypatch.setattr("minillm.corpus.sources.dump.plain_text", fails)
    assert len(read(DumpSource(str(dump), 1), tmp_path / "store.sqlite")) == 299
    assert "the page 'Página 7' cannot be made plain text (ValueError)" in caplog.text
    assert "colonos" not in caplog.text


def test_a_namespace_with_a_key_that_is_no_number_is_named(
    dump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dump.write_text(dump.read_text(encoding="utf-8").replace('key="6"', 'key="abc"'), encoding="utf-8")
    assert len(read(DumpSource(str(dump), 1), tmp_path / "store.sqlite")) == 300
    assert "namespaces with keys that are no numbers ('abc')" in caplog.text


def test_entities_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    header = f'<!DOCTYPE mediawiki [<!ENTITY e0 "ja">{entities}]>{HEADER}'
    file = tmp_path / "bomb.xml"
    file.write_text(f"{header}{page(1, '&e9;')}</mediawiki>", encoding="utf-8")
    with pytest.raises(SettingError, match="is no dump of a wiki: it declares a document type"):
        read(DumpSource(str(file), 1), tmp_path / "store.sqlite")


@pytest.mark.parametrize(("content", "problem"), [("<!-- " + "x" * 20_000_000, "tag or comment"), ("<a>" * 200, "100")])
def test_what_a_parser_would_hold_without_end_is_damage(dump: Path, tmp_path: Path, content: str, problem: str) -> None:
    broken(dump, content)
    with pytest.raises(OutsideError, match=f"cut off or damaged .*{problem}"):
        read(DumpSource(str(dump), 1), tmp_path / "store.sqlite")


def test_a_page_is_too_long_from_one_byte_more_on(dump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken(dump, page(901, "ñ" * 2000) + page(902, "ñ" * 2000 + "n") + page(903, "n" * 4001) + page(904, "n" * 4000))
    articles = read(DumpSource(str(dump), 1, max_page_bytes=4000), tmp_path / "store.sqlite")
    assert [article.page_id for article in articles if article.page_id > 900] == [901, 904]
    for name in "902", "903":
        assert f"the page 'Página {name}' has more than 4,000 bytes; data.source.max_page_bytes" in caplog.text
    with RawStore(tmp_path / "store.sqlite") as store:
        assert store.get_meta("counts")["too long"] == 2


PEAK = """
import resource, sys
from minillm.corpus import DumpSource, RawStore
with RawStore(sys.argv[2]) as store:
    for article in DumpSource(sys.argv[1], int(sys.argv[3])).articles(None, store):
        store.add(article)
    print(len(store), store.get_meta("counts"))
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024)
"""


def test_a_page_of_200_megabytes_is_never_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "wiki.xml.bz2"
    start, end = page(2, "|").split("|")
    million = bz2.compress(b"El perro ladra. " * 62_500)
    with file.open("wb") as dump:
        dump.write(bz2.compress(f"{HEADER}{page(1, PROSE)}{start}".encode()))
        for _ in range(200):
            dump.write(million)
        dump.write(bz2.compress(f"{end}{page(3, PROSE)}</mediawiki>".encode()))
    # Through a shell: a process counts into its peak that of the one that started it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", PEAK, str(file), str(tmp_path / "s"), "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    counted, peak = ended.stdout.splitlines()
    assert counted == "2 {'redirect': 0, 'disambiguation': 0, 'too long': 1}"
    assert int(peak) < 120  # MiB; the libraries take 45
    assert "the page 'Página 2' has more than 8,000,000 bytes" in ended.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_every_page_before_the_damage_is_kept(dump: Path, tmp_path: Path, processes: int) -> None:
    content = dump.read_text(encoding="utf-8")
    dump.write_text(content[: content.index("<title>Página 150</title>")], encoding="utf-8")
    with RawStore(tmp_path / "store.sqlite") as store:
        read_all = (store.add(article) for article in DumpSource(str(dump), processes).articles(None, store))
        with pytest.raises(OutsideError, match="cut off or damaged"):
            all(read_all)
        assert [article.page_id for article in store] == list(range(150))


# Parts


@pytest.fixture
def parts(dump: Path, tmp_path: Path) -> Path:
    """A folder with the dump's pages in three files, whose order is that of their numbers."""
    folder = tmp_path / "parts"
    folder.mkdir()
    pages = re.findall(r"<page>.*?</page>\n", dump.read_text(encoding="utf-8"), re.DOTALL)
    for name, some in ("2", pages[:60]), ("10", pages[60:200]), ("11", pages[200:]):
        packed = bz2.compress(f"{HEADER}{''.join(some)}</mediawiki>\n".encode())
        (folder / f"wiki-{name}.xml.bz2").write_bytes(packed)
    (folder / "sha1sums.txt").write_text("")
    return folder


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_parts_give_what_one_file_gives_to_the_byte(dump: Path, parts: Path, tmp_path: Path, processes: int) -> None:
    settings: dict[str, Any] = {"num_articles": None, "min_length": 1, "duplicates": KEEP_ALL}
    whole = Corpus(DumpSource(str(dump), 1), tmp_path / "whole", **settings)
    for path in parts, parts / "wiki-*.xml.bz2":
        corpus = Corpus(DumpSource(str(path), processes), tmp_path / f"data{path.name[0]}", **settings)
        for file in ("train.arrow", "val.arrow", "test.arrow", "ATTRIBUTION.tsv", "corpus.lock.json"):
            assert (corpus.prepare() / file).read_bytes() == (whole.prepare() / file).read_bytes()
        for part in "reading", "funnel", "splits":
            assert corpus.manifest[part] == whole.manifest[part]
        assert [file.suffix for file in (tmp_path / f"data{path.name[0]}" / "raw").iterdir()].count(".sqlite") == 1


def test_a_limit_takes_the_first_articles_of_the_parts(parts: Path, tmp_path: Path) -> None:
    for wanted in 20, 40, 290, 300:
        source = DumpSource(str(parts), 2)
        with RawStore(tmp_path / "store.sqlite") as store:
            held = len(store)
        articles = read(source, tmp_path / "store.sqlite", wanted - held)
        assert [article.page_id for article in articles] == list(range(wanted))


def test_reading_parts_goes_on_after_sigkill(parts: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", READ, str(parts), str(tmp_path / "store.sqlite")]) as process:
            time.sleep(moments.uniform(0.3, 1.2))
            process.kill()
    assert [article.page_id for article in read(DumpSource(str(parts), 2), tmp_path / "store.sqlite")] == list(
        range(300)
    )


def test_a_damaged_part_is_named_and_what_came_before_is_kept(parts: Path, tmp_path: Path) -> None:
    part = parts / "wiki-11.xml.bz2"
    part.write_bytes(bz2.compress(cut(bz2.decompress(part.read_bytes()))))
    with RawStore(tmp_path / "store.sqlite") as store:
        read_all = (store.add(article) for article in DumpSource(str(parts), 2).articles(None, store))
        with pytest.raises(OutsideError, match=r"wiki-11\.xml\.bz2: the dump is cut off or damaged") as caught:
            all(read_all)
        page_ids = [article.page_id for article in store]
    assert "\n" not in str(caught.value)
    assert page_ids == list(range(len(page_ids)))
    assert 240 < len(page_ids) < 255  # half of the third part


def test_a_page_in_two_parts_is_read_once_and_named(
    parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = f"{HEADER}{page(7, PROSE)}{page(300, PROSE)}</mediawiki>"
    (parts / "wiki-12.xml").write_text(content, encoding="utf-8")
    assert len(read(DumpSource(str(parts), 2), tmp_path / "store.sqlite")) == 301
    assert "the page 'Página 7' (id 7) comes twice" in caplog.text
    with RawStore(tmp_path / "store.sqlite") as store:
        assert store.get_meta("counts")["repeated"] == 1


def test_files_that_are_not_the_parts_of_one_dump_are_refused(parts: Path, tmp_path: Path) -> None:
    other = HEADER.replace("es.example.org", "fr.example.org")
    for name, content, message in (
        ("wiki-12.xml", f"{other}{page(1, PROSE)}</mediawiki>", r"wiki-2\..* and wiki-12\.xml are of different wikis"),
        ("wiki-12.xml", "nada", r"wiki-12\.xml is no dump of a wiki"),
        ("wiki-3.xml.bz2", "BZh9 nada que ver", r"wiki-3\.xml\.bz2 cannot be read: Invalid data stream"),
    ):
        (parts / name).write_text(content, encoding="utf-8")
        with pytest.raises(SettingError, match=rf"^data\.source\.path=.*: {message}") as caught:
            read(DumpSource(str(parts), 2), tmp_path / "store.sqlite")
        assert "\n" not in str(caught.value)
        (parts / name).unlink()
    (parts / "wiki-2.xml.bz2").rename(parts / "es-articles1.xml-p1p100.bz2")
    (parts / "wiki-10.xml.bz2").rename(parts / "es-articles-multistream1.xml-p50p200.bz2")
    with pytest.raises(SettingError, match=r"p1p100\.bz2 and .*p50p200\.bz2 hold the same pages"):
        read(DumpSource(str(parts), 2), tmp_path / "store.sqlite")


def test_the_description_is_that_of_the_files_in_their_order(dump: Path, parts: Path) -> None:
    described = DumpSource(str(parts)).describe()
    assert DumpSource(f"{parts}/*.bz2", 3).describe() == described
    assert len(described["parts"]) == 3
    assert DumpSource(f"{dump.parent}/*.xml").describe() == DumpSource(str(dump)).describe()
    assert DumpSource(str(dump), max_page_bytes=9).describe() != DumpSource(str(dump)).describe()


READ = """
import sys
from minillm.corpus import DumpSource, RawStore
with RawStore(sys.argv[2]) as store:
    for article in DumpSource(sys.argv[1], 2).articles(None, store):
        store.add(article)
"""


def test_a_terminal_shows_the_bytes_read_the_articles_a_second_and_the_time_left(parts: Path, tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, "-c", READ, str(parts), str(tmp_path / "store.sqlite")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    ended = subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, env=environment, check=True)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # which says that the other side is closed
        while piece := os.read(main, 1 << 16):
            shown += piece
    os.close(main)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", shown.decode())
    assert re.search(r"reading the dump .* [\d.]+/[\d.]+ kB [\d,]+ articles/s \d:\d\d:\d\d", text)
    assert ended.stdout == b""
    ended = subprocess.run([*command[:-1], str(tmp_path / "other.sqlite")], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")
