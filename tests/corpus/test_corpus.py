import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from minillm.corpus import (
    SPLITS,
    Article,
    Cleaner,
    Corpus,
    DuplicateFilter,
    FilesSource,
    QualityFilter,
    RawStore,
    SampleSource,
    split_of,
)
from minillm.errors import OutsideError, SettingError

PEAK = """
import json, random, resource, sys
from pathlib import Path
from minillm import parallel
from minillm.corpus import Corpus, FilesSource, QualityFilter
parallel.WORTH_PROCESSES = 1 << 62  # in this process, whose peak is told
number, folder = int(sys.argv[1]), Path(sys.argv[2])
chooser = random.Random(1)
words = ["".join(chooser.choices("abcdefghijlmnoprstuvz", k=5)) for _ in range(3000)]
with (folder / "texts.jsonl").open("w") as file:
    for n in range(number):
        file.write(json.dumps({"id": n, "text": " ".join(chooser.choices(words, k=60))}) + "\\n")
made = Corpus(FilesSource(str(folder / "texts.jsonl")), folder, num_articles=None, min_length=1,
              quality=QualityFilter(None, False, False, False))
assert made.manifest["funnel"]["kept"] == number
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
KILLED = """
import os, signal, sys
from minillm.corpus import Corpus, SampleSource, corpus
write_splits = corpus.Corpus._write_splits
def killed(*arguments):
    write_splits(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
corpus.Corpus._write_splits = killed
Corpus(SampleSource(), sys.argv[1], num_articles=60).prepare()
"""

MakeCorpus = Callable[..., Corpus]
PREPARE = """
import sys
from minillm.corpus import Corpus, SampleSource
print(Corpus(SampleSource(), sys.argv[1], num_articles=int(sys.argv[2])).fingerprint)
"""


def sides(corpus: Corpus) -> dict[int, str]:
    return {page_id: split for split in SPLITS for page_id in corpus.articles(split)["page_id"]}


def test_the_sample_comes_out_cleaned_and_split(make_corpus: MakeCorpus, sample: list[Article]) -> None:
    corpus = make_corpus()
    articles = {row["page_id"]: row for split in SPLITS for row in corpus.articles(split)}
    assert len(articles) == sum(len(corpus.articles(split)) for split in SPLITS) == 479
    for article in sample:
        assert articles[article.page_id]["title"] == article.title
        assert articles[article.page_id]["text"] == Cleaner().clean(article.text)[0]
    assert all(split_of(page_id, (0.7, 0.15, 0.15)) == side for page_id, side in sides(corpus).items())


def test_the_manifest_tells_what_the_corpus_was_made_from(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(num_articles=60)
    manifest = corpus.manifest
    assert manifest == json.loads((corpus.prepare() / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["fingerprint"] == corpus.fingerprint == corpus.prepare().name
    assert manifest["source"] == {"name": "sample", **SampleSource().describe()}
    assert manifest["settings"]["min_length"] == 500
    assert manifest["settings"]["duplicates"]["threshold"] == DuplicateFilter().threshold
    assert manifest["cleaning"]["headings"] > 2_000
    for split, counts in manifest["splits"].items():
        texts = list(corpus.articles(split)["text"])
        assert counts == {
            "articles": len(texts),
            "characters": sum(map(len, texts)),
            "bytes": sum(len(text.encode()) for text in texts),
        }


def test_the_funnel_counts_each_article_once_in_the_order_of_the_checks(
    make_corpus: MakeCorpus, sample: list[Article]
) -> None:
    texts = [article.text for article in sample[:40]]
    texts += [
        texts[0],
        texts[1].replace(" de ", " por ", 3),
        "Corto.",
        "#REDIRECT [[Sol]]",
        "The quick brown fox jumps. " * 40,
    ]
    texts += ["Mercurio puede referirse a:\n* Uno\n* Dos", "\n".join(f"* Río {n}" for n in range(99))]
    corpus = make_corpus([{"id": n, "title": f"Título {n}", "text": text} for n, text in enumerate(texts)])
    assert list(corpus.manifest["funnel"].items()) == [
        ("read", 47),
        ("redirect", 1),
        ("disambiguation", 1),
        ("list", 1),
        ("not Spanish", 1),
        ("too short", 1),
        ("exact duplicate", 1),
        ("near duplicate", 1),
        ("kept", 40),
    ]


def test_a_large_corpus_is_examined_by_several_processes_and_comes_out_the_same(
    sample: list[Article], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [article.text for article in sample[:80]] + [article.text for article in sample[10:15]] + ["Corto."]
    file = tmp_path / "records.jsonl"
    file.write_text(
        "".join(json.dumps({"id": n, "title": str(n), "text": text}) + "\n" for n, text in enumerate(texts))
    )
    serial = Corpus(FilesSource(str(file)), tmp_path / "serial").prepare()
    monkeypatch.setattr("minillm.corpus.corpus.PER_TASK", 12)
    monkeypatch.setattr("minillm.parallel.WORTH_PROCESSES", 60_000)
    monkeypatch.setattr("minillm.parallel.cores", lambda: 2)
    shared = Corpus(FilesSource(str(file)), tmp_path / "shared").prepare()
    assert json.loads((serial / "manifest.json").read_text())["funnel"]["exact duplicate"] == 5
    assert shared.name == serial.name
    for path in serial.iterdir():
        assert (shared / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_same_corpus_is_made_once(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(num_articles=60).prepare()
    before = folder.stat().st_mtime_ns
    assert make_corpus(num_articles=60).prepare() == folder
    assert folder.stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "settings",
    [
        {"min_length": 2100},
        {"split": [0.8, 0.1, 0.1]},
        {"num_articles": 61},
        {"cleaner": Cleaner(headings=False)},
        {"quality": QualityFilter(lists=False)},
        {"duplicates": DuplicateFilter(threshold=0.7)},
    ],
)
def test_another_setting_makes_another_corpus(make_corpus: MakeCorpus, settings: dict[str, Any]) -> None:
    few = {"num_articles": 60}
    assert make_corpus(**few | settings).fingerprint != make_corpus(**few).fingerprint


def test_an_article_stays_on_its_side_as_the_corpus_grows(make_corpus: MakeCorpus) -> None:
    before: dict[int, str] = {}
    for num_articles in (40, 80, 160):
        corpus = make_corpus(num_articles=num_articles)
        after = sides(corpus)
        assert before.items() <= after.items()
        assert len(after) == corpus.manifest["funnel"]["kept"]  # none is in two splits
        before = after
    assert len(before) == 160


def test_a_corpus_that_grew_can_still_be_had_smaller(make_corpus: MakeCorpus) -> None:
    small = make_corpus(num_articles=60).prepare()
    make_corpus(num_articles=80).prepare()
    assert make_corpus(num_articles=60).prepare() == small


def test_files_added_to_a_folder_move_no_article(tmp_path: Path, sample: list[Article]) -> None:
    def write(name: str, articles: list[Article]) -> None:
        records = [{"id": n, "title": article.title, "text": article.text} for n, article in enumerate(articles)]
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    def corpus() -> Corpus:
        return Corpus(FilesSource(f"{tmp_path}/*.jsonl"), tmp_path / "data", num_articles=None)

    write("b.jsonl", sample[:60])
    before = sides(corpus())
    write("a.jsonl", sample[60:120])
    after = sides(corpus())
    assert before.items() < after.items()
    assert len(after) == 120


def test_an_edited_file_makes_another_corpus(make_corpus: MakeCorpus, sample: list[Article]) -> None:
    records = [{"id": article.page_id, "title": article.title, "text": article.text} for article in sample[:40]]
    before = make_corpus(records)
    assert before.fingerprint == make_corpus(records).fingerprint
    records[0]["text"] = sample[40].text
    after = make_corpus(records)
    assert before.fingerprint != after.fingerprint
    assert sides(before) == sides(after)


def test_reading_goes_on_where_it_was_broken_off(
    make_corpus: MakeCorpus, sample: list[Article], tmp_path: Path
) -> None:
    class Breaking:
        name = "breaking"
        asked: list[int | None] = []  # noqa: RUF012
        breaks = True

        def describe(self) -> dict[str, Any]:
            return {}

        def articles(self, limit: int | None, held: Any) -> Any:
            self.asked.append(limit)
            for number, article in enumerate(SampleSource().articles(limit, held)):
                if self.breaks and number == 25:
                    raise OutsideError("the line is dead")
                yield article

    source = Breaking()
    with pytest.raises(OutsideError, match="the line is dead"):
        Corpus(source, tmp_path / "data", num_articles=60).prepare()
    source.breaks = False
    corpus = Corpus(source, tmp_path / "data", num_articles=60)
    assert source.asked == [60]
    assert corpus.manifest["funnel"]["read"] == 60
    assert source.asked == [60, 35]
    assert sides(corpus) == sides(make_corpus(num_articles=60))


def test_a_source_that_gave_all_is_not_asked_again(tmp_path: Path) -> None:
    class Counting(SampleSource):
        asked: list[int | None] = []  # noqa: RUF012

        def articles(self, limit: int | None, held: Any) -> Any:
            self.asked.append(limit)
            return super().articles(60, held)

    for num_articles in (1000, 1000, None, 2000, 50):
        Corpus(Counting(), tmp_path, num_articles=num_articles).prepare()
    assert Counting.asked == [1000]


def test_several_processes_prepare_the_same_corpus_at_once(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path), "60"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert outputs == [(f"{make_corpus(num_articles=60).fingerprint}\n", "")] * 2  # the same in another folder
    assert len(list((tmp_path / "corpus").iterdir())) == 1


def test_a_damaged_article_is_named_and_read_again(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = make_corpus(num_articles=60)
    before.prepare()
    (file,) = (tmp_path / "data" / "raw").glob("*.sqlite")
    with RawStore(file) as store:
        articles = list(store)
        store._connection.execute("UPDATE articles SET text = 'otro' WHERE page_id = 7")
        store._connection.execute("UPDATE articles SET title = 'Otro' WHERE page_id = 9")
    after = make_corpus(num_articles=60, min_length=501)
    assert sides(after).items() <= sides(before).items()
    assert "article 7 (Arquitectura gótica) is damaged and is fetched again" in caplog.text
    assert "article 9 (Otro) is damaged and is fetched again" in caplog.text
    with RawStore(file) as store:
        assert list(store) == articles


def test_a_damaged_store_is_set_aside_and_said_so(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_corpus(num_articles=60).prepare()
    (file,) = (tmp_path / "data" / "raw").glob("*.sqlite")
    for number in range(1, 3):
        file.write_bytes(b"nada que ver" * 1000)
        assert make_corpus(num_articles=60).prepare() == folder
        aside = file.with_suffix(f".damaged-{number}")
        assert aside.read_bytes() == b"nada que ver" * 1000
        assert f"renamed to {aside.name}" in caplog.text


@pytest.mark.parametrize("name", ["train.arrow", "manifest.json", "ATTRIBUTION.tsv", "corpus.lock.json", "SHA256SUMS"])
def test_a_damaged_corpus_is_named_and_made_again(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder = make_corpus(num_articles=60).prepare()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    middle = len(before[name]) // 2
    for damaged in before[name][:middle], before[name][:middle] + b"\xff" + before[name][middle + 1 :], None:
        caplog.clear()
        (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
        assert make_corpus(num_articles=60).prepare() == folder
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert caplog.messages == [f"{folder} is damaged ({name}), made again"]


def test_a_prepared_corpus_can_be_used_where_nothing_can_be_written(
    make_corpus: MakeCorpus, tmp_path: Path, read_only: Callable[[Path], AbstractContextManager[None]]
) -> None:
    before = make_corpus(num_articles=60)
    before.prepare()
    with read_only(tmp_path / "data"):
        after = make_corpus(num_articles=60)
        assert after.prepare() == before.prepare()
        assert sides(after) == sides(before)
        assert after.manifest == before.manifest
        for settings in {"num_articles": 61}, {"num_articles": 60, "min_length": 501}:
            with pytest.raises(SettingError, match=r"^paths\.data_dir=\S+: cannot be written: \S+"):
                make_corpus(**settings).prepare()


def test_a_damaged_split_is_named(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(num_articles=60)
    for content in (b"", b"nada", (corpus.prepare() / "val.arrow").read_bytes()[:5000]):
        (corpus.prepare() / "val.arrow").write_bytes(content)
        with pytest.raises(OutsideError, match=r"val\.arrow: cannot be read .*remove its folder"):
            corpus.articles("val")
    with pytest.raises(SettingError, match=r"^split=dev: must be one of train, val, test"):
        corpus.articles("dev")


def dropped(corpus: Corpus) -> list[dict[str, str]]:
    with (corpus.prepare() / "dropped.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def test_every_dropped_article_is_written_down_with_the_setting_that_keeps_it(
    make_corpus: MakeCorpus, sample: list[Article]
) -> None:
    texts = [article.text for article in sample[:40]]
    texts += [
        texts[0],
        "Corto,\tpero\ncon líneas.",
        "The quick brown fox jumps. " * 40,
        texts[1].replace(" de ", " por ", 3),
    ]
    texts += ["\n".join(f"* Río {n}" for n in range(99))]
    records = [{"id": n, "title": f"Título {n}", "text": text} for n, text in enumerate(texts)]
    corpus = make_corpus(records, num_articles=None)
    table = dropped(corpus)
    assert sorted((row["title"], row["from"], row["why"], row["kept by"]) for row in table) == [
        ("Título 40", "records.jsonl:41", "exact duplicate", "data.duplicates.exact=false"),
        ("Título 41", "records.jsonl:42", "too short", "data.min_length=23"),
        ("Título 42", "records.jsonl:43", "not Spanish", "data.quality.language=null"),
        ("Título 43", "records.jsonl:44", "near duplicate", "data.duplicates.near=false"),
        ("Título 44", "records.jsonl:45", "list", "data.quality.lists=false"),
    ]
    begins = {row["title"]: row["begins"] for row in table}
    assert begins["Título 41"] == "Corto, pero con líneas."
    assert begins["Título 42"].startswith("The quick brown fox")
    everything = make_corpus(
        records, num_articles=None, min_length=23, duplicates=DuplicateFilter(exact=False, near=False),
        quality=QualityFilter(language=None, lists=False),
    )  # fmt: skip
    assert dropped(everything) == []
    assert everything.manifest["funnel"]["kept"] == len(records)


def test_the_language_of_the_corpus_is_found_and_of_a_mixed_one_none_is_dropped(
    make_corpus: MakeCorpus, sample: list[Article]
) -> None:
    english = [f"The river number {n} runs through the old town and down to the sea. " * 20 for n in range(30)]
    asked = {"quality": QualityFilter(language="auto"), "duplicates": DuplicateFilter(near=False)}
    mostly = make_corpus([{"id": n, "text": text} for n, text in enumerate([*english, sample[0].text])], **asked)
    assert mostly.manifest["language"] == {"found": "en", "share": pytest.approx(30 / 31), "others_dropped": True}
    assert [row["why"] for row in dropped(mostly)] == ["other language"]
    assert (mostly.manifest["funnel"]["other language"], "not Spanish" in mostly.manifest["funnel"]) == (1, False)
    half = [*english, *(article.text for article in sample[:30])]
    mixed = make_corpus([{"id": n, "text": text} for n, text in enumerate(half)], **asked)
    assert mixed.manifest["language"]["others_dropped"] is False
    assert mixed.manifest["funnel"]["kept"] == 60


def test_a_book_comes_out_in_three_splits_and_few_books_are_refused_by_the_setting_that_splits_them(
    tmp_path: Path, sample: list[Article]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    chapters = [f"Capítulo {n}\n\n{article.text}\n\n" for n, article in enumerate(sample[:120])]
    (folder / "a.txt").write_text("".join(chapters[:60]), encoding="utf-8")
    corpus = Corpus(FilesSource(str(folder)), tmp_path / "data", num_articles=None)
    titles = [title for split in SPLITS for title in corpus.articles(split)["title"]]
    assert titles == [f"a ({n})" for n in range(1, len(titles) + 1)]
    assert corpus.articles("train").column_names == Corpus(SampleSource(), tmp_path).articles("train").column_names
    (folder / "b.txt").write_text("".join(chapters[60:]), encoding="utf-8")
    with pytest.raises(SettingError, match=r"^data\.source\.parts=together: leaves .*; blocks splits each file$"):
        Corpus(FilesSource(str(folder), cut=4000), tmp_path / "data", num_articles=None).prepare()
    blocks = Corpus(FilesSource(str(folder), parts="blocks"), tmp_path / "data", num_articles=None)
    assert all(counts["articles"] > 5 for counts in blocks.manifest["splits"].values())


def test_a_part_of_a_book_whose_place_is_damaged_is_read_again(
    tmp_path: Path, sample: list[Article], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(article.text for article in sample[:40]), encoding="utf-8")
    corpus = Corpus(FilesSource(str(tmp_path / "a.txt")), tmp_path / "data", num_articles=None)
    before = sides(corpus)
    shutil.rmtree(tmp_path / "data" / "corpus")
    (raw,) = (tmp_path / "data" / "raw").glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(raw)) as content, content:
        content.execute("UPDATE origins SET place = 0.99 WHERE whence = 'a.txt:1'")
        content.execute("DELETE FROM origins WHERE rowid = (SELECT MAX(rowid) FROM origins)")
    again = Corpus(FilesSource(str(tmp_path / "a.txt")), tmp_path / "data", num_articles=None)
    assert sides(again) == before
    assert caplog.text.count("is damaged and is fetched again") == 2


def test_a_store_that_is_older_than_the_places_of_articles_is_still_good(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    before = make_corpus(num_articles=60).fingerprint
    (raw,) = (tmp_path / "data" / "raw").glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(raw)) as content, content:
        content.execute("DROP TABLE origins")
    with RawStore(raw, read_only=True) as store:
        assert len(list(store)) == 60
        assert (
            store.digest(60)
            == json.loads((tmp_path / "data" / "corpus" / before / "manifest.json").read_text())["articles"]
        )
    assert make_corpus(num_articles=60).fingerprint == before


def test_a_split_may_be_empty_where_its_share_is_zero(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(num_articles=60, split=[0.5, 0.5, 0.0])
    assert len(corpus.articles("test")) == 0
    assert corpus.articles("test").column_names == corpus.articles("train").column_names


PROSE = "La ciudad fue fundada por los españoles en el siglo XVI junto al río, y creció deprisa. "
EMPTY: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "too short": (
        [PROSE * (n + 1) for n in range(4)],
        {"min_length": 100_000},
        r"^data\.min_length=100000: leaves no article of 4 \(the longest has 351 characters\); lower it$",
    ),
    "not Spanish": (
        ["The city was founded by the river. " * 30] * 3,
        {},
        r"^data\.quality\.language=es: leaves no article of 3",
    ),
    "redirects": (
        ["#REDIRECT [[x]]"] * 3,
        {},
        r"^data\.quality\.redirects=True: leaves no article of 3 \(3 dropped: redirect",
    ),
    "duplicates": (
        [PROSE * 9] * 20,
        {},
        r"^data\.duplicates\.exact=True: leaves too few articles, 1 of 20 \(19 dropped",
    ),
    "few articles": (
        [f"{PROSE * 9} {n}" for n in range(3)],
        {"duplicates": DuplicateFilter(near=False)},
        r"^data\.split=",
    ),
    "few asked for": (
        [f"{PROSE * 9} {n}" for n in range(3)],
        {"num_articles": 1},
        r"^data\.num_articles=1: leaves too few articles, 1 of 1, none",
    ),
    "none at all": ([], {}, r"^data\.source=files: has no article to read$"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_settings_that_leave_nothing_are_refused_by_name(make_corpus: MakeCorpus, tmp_path: Path, case: str) -> None:
    texts, settings, message = EMPTY[case]
    with pytest.raises(SettingError, match=message) as caught:
        make_corpus([{"id": n, "text": text} for n, text in enumerate(texts)], **settings).prepare()
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "data" / "corpus").iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value"), [("num_articles", 0), ("num_articles", -3), ("min_length", -1), ("split", [0.9, 0.2, 0.1])]
)
def test_settings_out_of_range_are_refused(make_corpus: MakeCorpus, setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^{setting}="):
        make_corpus(**{setting: value})


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = [tmp_path / "file", tmp_path / "file" / "data", Path("/proc/data")]
    if os.getuid() and os.name == "posix":
        (tmp_path / "locked").mkdir(mode=0o500)
        folders.append(tmp_path / "locked")
    for folder in folders:
        with pytest.raises(SettingError, match=rf"^paths\.data_dir={folder}: cannot be written"):
            Corpus(SampleSource(), folder).prepare()


@pytest.mark.skipif(os.name == "nt", reason="there is no peak of memory to ask for")
def test_four_times_as_many_articles_take_hardly_more_memory(tmp_path: Path) -> None:
    peaks = []
    for number in 2_000, 8_000:
        (folder := tmp_path / str(number)).mkdir()
        command = [sys.executable, "-c", PEAK, str(number), str(folder)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 25  # MB; with all signatures in memory it would be 60


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_preparation_that_was_killed_leaves_nothing_in_the_way_of_the_next(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "corpus"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "data")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[0] for path in folder.iterdir()] == ["."]
    corpus = make_corpus(num_articles=60)
    made = corpus.prepare()
    assert list(folder.iterdir()) == [made]
    assert corpus.manifest["funnel"]["kept"] == 60


def test_the_articles_of_a_split_come_in_columns_too(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    rows = [row for batch in corpus.batches("train", "page_id", "text") for row in zip(*batch.values(), strict=True)]
    articles = corpus.articles("train")
    assert rows == list(zip(articles["page_id"], articles["text"], strict=True))


@pytest.mark.parametrize("library", ["ftfy", "py3langid"])
def test_another_version_of_a_library_makes_another_corpus(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before = make_corpus(num_articles=60)
    assert before.manifest["libraries"][library] == version(library)
    monkeypatch.setattr("minillm.corpus.fingerprint.version", lambda name: version(name) + "+new" * (name == library))
    after = make_corpus(num_articles=60)
    assert after.fingerprint != before.fingerprint
    assert after.manifest["libraries"][library].endswith("+new")
