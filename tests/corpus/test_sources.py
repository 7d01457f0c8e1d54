import json
import logging
import re
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minillm.corpus import Article, FilesSource, RawStore, SampleSource, Source, WikipediaSource, split_of
from minillm.corpus.sources.hash_set import RECENT, HashSet
from minillm.errors import SettingError


def write_jsonl(file: Path, records: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def read(path: Path | str, **settings: Any) -> list[Article]:
    return list(FilesSource(str(path), **settings).articles(None, ()))


def test_both_sources_offer_what_a_source_must() -> None:
    assert isinstance(SampleSource(), Source)
    assert isinstance(FilesSource("x"), Source)


def test_the_sample_has_479_articles_in_a_fixed_order(sample: list[Article]) -> None:
    assert len(sample) == 479
    assert [article.page_id for article in sample[:3]] == [1, 2, 3]
    assert sample[0].title == "Energía eólica"


def test_a_source_yields_so_many_articles_that_are_not_held(sample: list[Article], tmp_path: Path) -> None:
    held = {article.page_id for article in sample[:10]}
    assert list(SampleSource().articles(5, held)) == sample[10:15]
    assert list(SampleSource().articles(None, held)) == sample[10:]
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"Texto {number}."} for number in range(9)])
    articles = read(tmp_path)
    assert list(FilesSource(str(tmp_path)).articles(2, {articles[0].page_id})) == articles[1:3]


def test_a_text_file_is_an_article_titled_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "luna.txt").write_bytes("\ufeffLa Luna es un satélite.\r\n".encode())
    (article,) = read(tmp_path / "luna.txt")
    assert (article.title, article.text) == ("luna", "La Luna es un satélite.\r\n")
    assert read(tmp_path) == [article]


def test_records_are_read_with_all_that_they_tell(tmp_path: Path) -> None:
    record = {"id": "7", "title": "Luna", "text": "Satélite.", "url": "https://es.example/Luna", "revision_id": 12}
    record |= {"timestamp": "2024-01-01T00:00:00Z", "otro": [1]}
    write_jsonl(tmp_path / "a.jsonl", [record])
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "b.parquet")
    (from_lines,), (from_rows,) = read(tmp_path / "a.jsonl"), read(tmp_path / "b.parquet")
    assert from_lines == replace(from_rows, whence="a.jsonl:1")
    assert from_rows.whence == "b.parquet:1"
    assert (from_lines.title, from_lines.text, from_lines.revision_id) == ("Luna", "Satélite.", 12)
    assert (from_lines.url, from_lines.timestamp) == ("https://es.example/Luna", "2024-01-01T00:00:00Z")


def test_the_fields_may_have_other_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"nombre": "Luna", "cuerpo": "Satélite.", "clave": 3}])
    fields = {"text_field": "cuerpo", "title_field": "nombre", "id_field": "clave"}
    (article,) = read(tmp_path, **fields)
    assert (article.title, article.text) == ("Luna", "Satélite.")


def test_a_folder_is_read_whole_in_the_order_of_names_and_a_glob_in_part(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/.oculto.txt", "a.txt", ".git/c.txt", "notas.md", "C.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [article.text for article in read(tmp_path)] == ["C.TXT", "a.txt", "b/z.txt"]
    assert [article.text for article in read(f"{tmp_path}/**/*.txt")] == ["a.txt", "b/z.txt"]
    assert [article.text for article in read(f"{tmp_path}/?.txt")] == ["a.txt"]
    assert read(f"{tmp_path}/**/*.txt") == [article for article in read(tmp_path) if article.text != "C.TXT"]


def test_files_whose_ids_overlap_lose_no_article(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{"id": n, "title": f"{name}{n}", "text": f"{name}{n}"} for n in range(5)]
        )
        write_jsonl(tmp_path / f"{name}_sin.jsonl", [{"id": n, "text": f"sin {name}{n}"} for n in range(5)])
    articles = read(tmp_path)
    assert len({article.page_id for article in articles}) == len(articles) == 20
    assert all(0 <= article.page_id < 2**63 for article in articles)


def test_a_record_that_comes_twice_is_read_twice(tmp_path: Path) -> None:
    records = [{"title": "Luna", "text": "Satélite."}] * 3 + [{"id": 1, "title": "Sol", "text": "Estrella."}] * 2
    write_jsonl(tmp_path / "a.jsonl", records)
    assert len({article.page_id for article in read(tmp_path)}) == 5


def test_no_id_among_many_is_taken_for_another() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**63, 3 * RECENT + 9).tolist()
    hashes = HashSet()
    assert all(hashes.add(number) for number in numbers)
    assert not any(hashes.add(number) for number in numbers[::50])
    assert not any(number ^ 1 in hashes for number in numbers[::50])


@pytest.mark.parametrize("fields", [("id", "title"), ("id",), ("title",), ()])
def test_an_article_keeps_its_identity_when_files_are_added_and_moved(tmp_path: Path, fields: tuple[str, ...]) -> None:
    records = [{"id": n, "title": f"Título {n}", "text": f"Texto {n}"} for n in range(9)]
    records = [{name: value for name, value in record.items() if name in (*fields, "text")} for record in records]
    write_jsonl(tmp_path / "b.jsonl", records)
    before = {article.text: article.page_id for article in read(tmp_path / "b.jsonl")}
    write_jsonl(
        tmp_path / "a.jsonl",
        [{**record, "text": f"Otro {n}"} for n, record in enumerate(records[:3])] if not fields else [],
    )
    write_jsonl(tmp_path / "a0.jsonl", [{"id": 1, "title": "Nuevo", "text": "Nuevo"}, *([{"text": "Suelto"}])])
    write_jsonl(tmp_path / "c.jsonl", [{"id": n, "text": f"Más {n}"} for n in range(9)])
    after = {article.text: article.page_id for article in read(tmp_path)}
    assert before.items() <= after.items()


def test_an_article_with_an_id_keeps_its_identity_when_its_text_is_revised(tmp_path: Path) -> None:
    ids = set()
    for text in ("Satélite.", "Satélite de la Tierra."):
        write_jsonl(tmp_path / "a.jsonl", [{"id": 1, "title": "Luna", "text": text}])
        ids |= {article.page_id for article in read(tmp_path)}
    assert len(ids) == 1


def jsonl(line: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = folder / "malo.jsonl"
        file.write_bytes(b'{"text": "Uno."}\n\n' + line + b'\n{"text": "Dos."}\n')
        return file

    return write


def parquet(folder: Path) -> Path:
    file = folder / "malo.parquet"
    table = pa.table({"text": ["Uno.", "Dos.", None]})
    pq.write_table(table, file)
    return file


def parquet_of(**columns: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table({"text": ["Uno.", "Dos.", "Malo."], **columns}), folder / "malo.parquet")
        return folder / "malo.parquet"

    return write


def parquet_not_utf8(folder: Path) -> Path:
    file = folder / "malo.parquet"
    text = pa.array([b"Uno.", b"Dos.", b"a\xf1o"]).view(pa.string())
    pq.write_table(pa.table({"text": text}), file)
    return file


BAD = {
    "not UTF-8": (jsonl('{"text": "año"}'.encode("latin-1")), r"malo\.jsonl:3 is not UTF-8 \(byte 0xf1\)"),
    "not JSON": (jsonl(b'{"text": "a'), r"malo\.jsonl:3 is no JSON"),
    "too deep": (jsonl(b"[" * 100_000), r"malo\.jsonl:3 "),
    "no object": (jsonl(b'["text"]'), r"malo\.jsonl:3 is no JSON object"),
    "no text": (jsonl(b'{"title": "Luna"}'), r"malo\.jsonl:3 has no text in its field 'text'"),
    "empty text": (jsonl(b'{"text": " "}'), r"malo\.jsonl:3 has no text"),
    "number as text": (jsonl(b'{"text": 3}'), r"malo\.jsonl:3 has no text"),
    "half a surrogate pair": (jsonl(b'{"text": "\\ud83d"}'), r"malo\.jsonl:3 is not Unicode"),
    "half a surrogate pair in another field": (
        jsonl(b'{"text": "Tres.", "url": "\\ud83d"}'),
        r"malo\.jsonl:3 is not Unicode",
    ),
    "a revision beyond 63 bits": (
        jsonl(b'{"text": "Tres.", "revision_id": %d}' % (1 << 80)),
        r"malo\.jsonl:3 has a revision_id that is no number from 0 to 2\^63 - 1",
    ),
    "true as revision": (jsonl(b'{"text": "Tres.", "revision_id": true}'), r"malo\.jsonl:3 has a revision_id"),
    "a negative revision": (jsonl(b'{"text": "Tres.", "revision_id": -1}'), r"malo\.jsonl:3 has a revision_id"),
    "an endless number": (jsonl(b'{"text": "Tres.", "id": %s}' % (b"9" * 5000)), r"malo\.jsonl:3 is no JSON"),
    "a revision of 64 bits in a row": (
        parquet_of(revision_id=pa.array([1, 2, 2**64 - 1], pa.uint64())),
        r"malo\.parquet:3 has a revision_id",
    ),
    "a time that Python has not": (
        parquet_of(timestamp=pa.array([1, 2, 2**62], pa.timestamp("us"))),
        r"malo\.parquet:3 has a value that cannot be read",
    ),
    "a day that Python has not": (
        parquet_of(timestamp=pa.array([1, 2, 2**31 - 1], pa.date32())),
        r"malo\.parquet:3 has a value that cannot be read",
    ),
    "no text in a row": (parquet, r"malo\.parquet:3 has no text"),
    "a row that is not UTF-8": (parquet_not_utf8, r"malo\.parquet:3 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_refused_by_file_and_line(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    path = write(tmp_path)
    with pytest.raises(SettingError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"data.source.path={path}: ")
    assert "data.source.on_error=skip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_left_out_with_a_warning_where_asked(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    write, message = BAD[case]
    with caplog.at_level(logging.WARNING):
        articles = read(write(tmp_path), on_error="skip")
    assert [article.text for article in articles] == ["Uno.", "Dos."]
    assert re.search(f"left out: .*{message}", caplog.text)
    assert "1 records could not be used" in caplog.text


def test_a_text_file_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Uno.\nEl año.\n".encode("latin-1"))
    with pytest.raises(SettingError, match=r"a\.txt:2 is not UTF-8 \(byte 0xf1\)"):
        read(tmp_path)


def test_a_file_that_only_claims_to_be_parquet_is_refused_or_left_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["Uno." * 100] * 1000}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", b"nada" * 100, whole[: len(whole) // 2], whole[:-8] + b"\xff" * 4 + whole[-4:]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(SettingError, match=r"a\.parquet:1 cannot be read as Parquet"):
            read(tmp_path)
        assert read(tmp_path, on_error="skip") == []


def test_a_flood_of_bad_records_is_counted_not_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_text("no\n" * 1000)
    assert read(tmp_path, on_error="skip") == []
    assert len(caplog.records) == 11
    assert "1000 records could not be used" in caplog.text


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^path=None: must name a file, a folder or a glob"):
        FilesSource()
    with pytest.raises(SettingError, match=r"^data\.source\.path=.*nada: does not exist"):
        read(tmp_path / "nada")
    with pytest.raises(SettingError, match="holds no article"):
        read(tmp_path)
    with pytest.raises(SettingError, match="holds no article"):
        read(f"{tmp_path}/*.txt")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(SettingError, match="holds no article"):
        read(tmp_path / "a.docx")
    with pytest.raises(SettingError, match=r"^on_error=ignore: must be refuse or skip"):
        FilesSource("x", on_error="ignore")


def book(chapters: list[Article], end: str = "\n") -> bytes:
    return "\n\n".join(f"Capítulo {n}\n\n{each.text}" for n, each in enumerate(chapters)).replace("\n", end).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_book_is_cut_into_articles_that_lose_nothing_and_begin_at_headings(
    sample: list[Article], tmp_path: Path, end: str
) -> None:
    (tmp_path / "libro.txt").write_bytes(whole := book(sample[:40], end))
    parts = read(tmp_path)
    assert "".join(part.text for part in parts).encode() == whole
    assert 15 < len(parts) < 60
    assert sum(bool(re.match(r"Capítulo|== ", part.text)) for part in parts) > 0.9 * len(parts)
    assert all(len(part.text) > 1500 for part in parts[:-1])
    assert (parts[1].title, parts[0].whence) == ("libro (2)", "libro.txt:1")
    line = int(parts[5].whence.rpartition(":")[2])
    assert whole.decode().split("\n")[line - 1].strip() == parts[5].text.splitlines()[0]
    assert len({part.page_id for part in parts}) == len(parts)


def test_one_book_is_split_in_blocks_and_of_several_files_each_stays_on_one_side(
    sample: list[Article], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(book(sample[:40]))
    alone = read(tmp_path)
    places = [part.place or 0.0 for part in alone]
    assert places == sorted(places)
    assert [split_of(part.page_id, (0.7, 0.15, 0.15), part.place) for part in (alone[0], alone[-1])] == [
        "train",
        "test",
    ]
    (tmp_path / "b.txt").write_bytes(book(sample[40:120]))
    uncut = {article.title: split_of(article.page_id, (0.5, 0.25, 0.25)) for article in read(tmp_path, cut=None)}
    parts = read(tmp_path, cut=2000)
    for title, side in uncut.items():
        assert {split_of(p.page_id, (0.5, 0.25, 0.25), p.place) for p in parts if p.title.startswith(title)} == {side}
    blocks = [part for part in read(tmp_path, parts="blocks") if part.title.startswith("b")]
    assert {split_of(p.page_id, (0.5, 0.25, 0.25), p.place) for p in blocks} == {"train", "val", "test"}


def test_where_a_text_is_cut_can_be_said(tmp_path: Path) -> None:
    text = "Uno\n\nEl primero.\nSigue.\n\nAún el primero.\n\n\n# Dos\n\nEl segundo. \n"
    (tmp_path / "a.txt").write_text(text)
    found = {
        cut: [" ".join(each.text.split()) for each in read(tmp_path, cut=cut)]
        for cut in ("headings", "blank_lines", 12, None)
    }
    assert found["headings"] == ["Uno El primero. Sigue. Aún el primero.", "# Dos El segundo."]
    assert found["blank_lines"] == ["Uno", "El primero. Sigue.", "Aún el primero.", "# Dos", "El segundo."]
    assert found[12] == ["Uno El primero. Sigue.", "Aún el primero.", "# Dos El segundo."]
    assert found[None] == [" ".join(text.split())]
    for cut in ("pages", 0, True, 10**9):
        with pytest.raises(SettingError, match=rf"^cut={cut}: must be auto, null"):
            FilesSource("x", cut=cut)
    with pytest.raises(SettingError, match=r"^parts=no: must be auto, together or blocks"):
        FilesSource("x", parts="no")


@pytest.mark.parametrize("letter", ["a", "ñ", "の", "😀"])
def test_a_text_without_lines_or_spaces_is_cut_between_characters(tmp_path: Path, letter: str) -> None:
    text = "¡" + letter * 100_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = read(tmp_path)
    assert "".join(part.text for part in parts) == text
    assert len(parts) > 1


def test_a_large_text_is_never_in_memory_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Una frase que no acaba nunca de empezar. " * 20_000 * 25)  # 20 MB, one line
    tracemalloc.start()
    characters = sum(len(article.text) for article in FilesSource(str(tmp_path)).articles(None, ()))
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()
    assert characters == 41 * 500_000


def test_what_is_not_utf8_in_a_book_is_named_by_its_line_or_costs_one_part(
    sample: list[Article], tmp_path: Path
) -> None:
    lines = book(sample[:40]).split(b"\n")
    lines[100] = "El año".encode("latin-1")
    (tmp_path / "a.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(SettingError, match=r"a\.txt:101 is not UTF-8"):
        read(tmp_path)
    kept = [part.page_id for part in read(tmp_path, on_error="skip")]
    (tmp_path / "a.txt").write_bytes(b"\n".join([*lines[:100], b"El mes", *lines[101:]]))
    assert len(set(kept).symmetric_difference(part.page_id for part in read(tmp_path))) == 1


def test_a_description_says_what_is_cut_and_only_then(sample: list[Article], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Corto.")
    (tmp_path / "b.txt").write_bytes(book(sample[:40])[:90_000])
    assert "cut" not in FilesSource(str(tmp_path)).describe()
    assert FilesSource(str(tmp_path), cut=None).describe() == FilesSource(str(tmp_path)).describe()
    (tmp_path / "c.txt").write_bytes(book(sample[:80]))
    described = FilesSource(str(tmp_path)).describe()
    assert described["cut"] == {"version": 1, "at": 4000, "files": 1, "parts": "together"}


def test_the_description_changes_with_the_files_and_not_with_their_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a" / "x.jsonl", [{"text": "Uno."}])
    write_jsonl(tmp_path / "b" / "x.jsonl", [{"text": "Uno."}])
    first = FilesSource(str(tmp_path / "a")).describe()
    assert FilesSource(str(tmp_path / "b")).describe() == first
    assert FilesSource(str(tmp_path / "b"), on_error="skip").describe() != first
    write_jsonl(tmp_path / "b" / "x.jsonl", [{"text": "Dos."}])
    assert FilesSource(str(tmp_path / "b")).describe() != first


def test_ids_and_revisions_of_64_bits_are_read_and_kept(tmp_path: Path) -> None:
    ids = pa.array([1, 2**63, 2**64 - 1], pa.uint64())
    revisions = pa.array([0, 5, 2**63 - 1], pa.uint64())
    pq.write_table(
        pa.table({"text": ["Uno.", "Dos.", "Tres."], "id": ids, "revision_id": revisions}), tmp_path / "a.parquet"
    )
    with RawStore(tmp_path / "store.sqlite") as store:
        assert all(store.add(article) for article in read(tmp_path))
        assert [article.revision_id for article in store] == [0, 5, 2**63 - 1]


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_timeout_that_no_clock_can_keep_is_refused(timeout: float) -> None:
    with pytest.raises(SettingError, match=r"^timeout=.*: must be above 0 and at most 86400 seconds"):
        WikipediaSource(timeout=timeout)


@pytest.mark.parametrize("port", ["99999", "65536", "0", "-1", "abc"])
def test_an_address_with_a_port_that_there_cannot_be_is_refused(port: str, tmp_path: Path) -> None:
    source = WikipediaSource(f"http://127.0.0.1:{port}/w/api.php")
    with (
        RawStore(tmp_path / "store.sqlite") as store,
        pytest.raises(SettingError, match=r"^data\.source\.api_url=.*port"),
    ):
        next(source.articles(1, store))
