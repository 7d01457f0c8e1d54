"""A preparation of data that is killed again and again, wherever that is, leaves what an undisturbed one does."""

import functools
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from minillm.corpus import RawStore, SampleSource
from tests.reliability.kills import Cut, End, Ended, Sent, Touch, run_script

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="es"><siteinfo>
<sitename>Prueba</sitename><base>https://es.example.org/wiki/Portada</base><namespaces><namespace key="0" />
</namespaces></siteinfo>
"""
ARTICLES = 80
SOURCES = ("dump", "files")
FILES = ("*.sqlite", "manifest.json", "tokenizer.json", "SHA256SUMS", "*.lock*", ".*.tmp", "*.arrow", "*.tsv", "*")
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "sqlite3.connect")

Whole = Callable[[str], tuple[Path, float]]


def page(number: int, title: str, text: str, extra: str = "") -> str:
    return (
        f"<page><title>{escape(title)}</title><ns>0</ns><id>{number}</id>{extra}"
        f"<revision><id>{1000 + number}</id><timestamp>2024-01-01T00:00:00Z</timestamp>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same articles twice: a dump in two parts, and one's own texts."""
    folder = tmp_path_factory.mktemp("source")
    articles = list(SampleSource().articles(ARTICLES, ()))
    for part in 0, 1:
        pages = [page(article.page_id, article.title, article.text) for article in articles[part::2]]
        pages.insert(3, page(10**6 + part, "Otra", "#REDIRECT [[Una]]", '<redirect title="Una" />'))
        (folder / "dump").mkdir(exist_ok=True)
        (folder / "dump" / f"eswiki-pages-articles{part + 1}.xml").write_text(
            f"{HEADER}{''.join(pages)}</mediawiki>\n", encoding="utf-8"
        )
    (folder / "files").mkdir()
    lines = (json.dumps({"id": a.page_id, "title": a.title, "text": a.text}) + "\n" for a in articles)
    (folder / "files" / "own.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Whole:
    """Return what a preparation left that nothing interrupted, and the seconds that it took, once for each source."""

    @functools.cache
    def run(kind: str) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp("whole") / "data"
        ended = prepare(folder, source / kind)
        assert ended.status == 0, shown(folder)
        return folder, ended.seconds

    return run


def prepare(folder: Path, source: Path, end: End | None = None) -> Ended:
    """Run the preparation with its data_dir, the same command each time."""
    arguments = [f"data={source.name}", f"data.source.path={source}", f"paths.data_dir={folder}"]
    arguments += ["data.num_articles=null", "data.vocab_size=600", "tokenizer=bpe"]
    arguments += ["data.source.processes=2"] if source.name == "dump" else []
    return run_script("prepare", folder.parent, folder.parent / f"{folder.name}.txt", arguments, end)


def shown(folder: Path) -> str:
    """Return the end of what a preparation wrote to the terminal."""
    return (folder.parent / f"{folder.name}.txt").read_text(encoding="utf-8")[-1000:]


def check_end(folder: Path, expected: Path) -> None:
    """Check that two preparations left the same: files, the bytes of the prepared ones, and articles in the store."""
    found, wanted = (
        {path.relative_to(kept): path for path in kept.rglob("*") if path.is_file()} for kept in (folder, expected)
    )
    assert found.keys() == wanted.keys()  # nothing temporary
    for name, path in wanted.items():
        if path.suffix == ".sqlite":
            with RawStore(found[name]) as left, RawStore(path) as right:
                assert list(left) == list(right)
        else:
            assert found[name].read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        (
            "dump",
            [
                Sent(signal.SIGKILL, 0.4),  # while it reads, with two processes
                Cut(60_000),  # of the raw store
                Touch("os.rename", "*", 1),  # the corpus
                Touch("open", "tokenizer.json", 1),
            ],
        ),
        (
            "files",
            [
                Touch("open", "manifest.json"),
                Cut(100_000),
                Sent(signal.SIGTERM, 0.3),
                Touch("os.rename", "*", 2),  # the encoded data
            ],
        ),
    ],
)
def test_a_preparation_killed_at_the_worst_moments_leaves_the_same(
    whole: Whole, source: Path, tmp_path: Path, kind: str, ends: list[End]
) -> None:
    expected, _ = whole(kind)
    for end in ends:
        status = prepare(tmp_path / "data", source / kind, end).status
        wanted = 143 if isinstance(end, Sent) and end.number == signal.SIGTERM else -signal.SIGKILL
        assert status == (-signal.SIGXFSZ if isinstance(end, Cut) else wanted), (end, status, shown(tmp_path / "data"))
    assert prepare(tmp_path / "data", source / kind).status == 0, shown(tmp_path / "data")
    check_end(tmp_path / "data", expected)


@pytest.mark.long
@pytest.mark.parametrize("kind", SOURCES)
def test_a_preparation_in_a_storm_of_kills_leaves_the_same(
    whole: Whole, source: Path, tmp_path: Path, kind: str
) -> None:
    expected, seconds = whole(kind)
    draw, counts = random.Random(kind), Counter[str]()
    while counts.total() - counts["finished"] < 20:
        folder = tmp_path / f"data{counts['finished']}"
        for _ in range(draw.randint(3, 8)):  # then it is left alone
            end = drawn(draw, seconds)
            ended = prepare(folder, source / kind, end)
            if ended.status == 0:
                break
            assert ended.status in (-signal.SIGKILL, -signal.SIGXFSZ), (end, ended, shown(folder))
            counts[str(end)] += 1
        assert prepare(folder, source / kind).status == 0, shown(folder)
        check_end(folder, expected)
        counts["finished"] += 1
    print(kind, dict(counts))


def drawn(draw: random.Random, seconds: float) -> End:
    """Draw when a preparation that takes so many seconds is killed."""
    ends: list[End] = [
        Sent(signal.SIGKILL, draw.uniform(0.05, 0.95) * seconds),
        Touch(draw.choice(EVENTS), draw.choice(FILES), draw.randint(1, 5)),
        Cut(draw.randrange(10_000, 400_000)),
    ]
    return draw.choice(ends)
