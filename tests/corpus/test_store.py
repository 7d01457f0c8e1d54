import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from minillm.corpus import Article, RawStore
from minillm.errors import OutsideError

WRITER = """
import sys
from minillm.corpus.article import Article
from minillm.corpus.store import RawStore
with RawStore(sys.argv[1]) as store:
    for number in range(len(store), 1_000_000):
        store.add(Article(number, f"Título {number}", f"Texto número {number}. " * 200))
        print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "store.sqlite"


@pytest.fixture
def store(path: Path, sample: list[Article]) -> Iterator[RawStore]:
    with RawStore(path) as store:
        for article in sample[:5]:
            store.add(article)
        yield store


def damage(path: Path, page_id: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE articles SET text = CAST(x'ff' || text AS TEXT) WHERE page_id = ?", (page_id,))
    connection.close()


def test_articles_come_back_as_they_were_in_order_of_arrival(path: Path) -> None:
    articles = [
        Article(2**63 - 1, "Título", "Canción\nñ 成 \x00 \ufeff", 12, "https://es.example/a", "2024-01-01T00:00:00Z"),
        Article(3, "", "a"),
        Article(1, "B", "b"),
    ]
    with RawStore(path) as store:
        assert all(store.add(article) for article in articles)
    with RawStore(path) as store:
        assert list(store) == articles
        assert len(store) == 3
        assert 3 in store
        assert 4 not in store


def test_an_article_that_is_held_is_not_added_again(store: RawStore, sample: list[Article]) -> None:
    assert not store.add(Article(sample[0].page_id, "Otro", "otro"))
    assert list(store) == sample[:5]


def test_a_damaged_article_is_named_and_can_be_replaced_in_its_place(store: RawStore, sample: list[Article]) -> None:
    damage(store.path, sample[2].page_id)
    assert store.damaged() == {sample[2].page_id: sample[2].title}
    with pytest.raises(OutsideError, match=rf"article {sample[2].page_id} \({sample[2].title}\) is damaged"):
        list(store)
    assert store.replace(sample[2])
    assert store.damaged() == {}
    assert list(store) == sample[:5]


def test_an_article_can_be_removed(store: RawStore, sample: list[Article]) -> None:
    assert store.remove(sample[1].page_id)
    assert not store.remove(sample[1].page_id)
    assert not store.replace(sample[1])
    assert list(store) == [sample[0], *sample[2:5]]


def test_the_digest_depends_on_the_articles_and_their_number(store: RawStore, sample: list[Article]) -> None:
    before = store.digest(5)
    assert store.digest() == before != store.digest(4)
    store.add(sample[5])
    assert store.digest(5) == before != store.digest()
    store.replace(Article(sample[0].page_id, sample[0].title, "Otro texto."))
    assert store.digest(5) != before


def test_plain_values_are_kept_beside_the_articles(path: Path) -> None:
    with RawStore(path) as store:
        assert store.get_meta("next") is None
        store.set_meta("next", {"página": [1, None, True]})
        store.set_meta("next", {"página": [2, None, True]})
    with RawStore(path) as store:
        assert store.get_meta("next") == {"página": [2, None, True]}


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    file.write_bytes(b"no database, but long enough to have a header of some kind" * 100)
    with pytest.raises(OutsideError, match=r"store\.sqlite: is damaged or no raw store"):
        RawStore(file)
    with pytest.raises(OutsideError, match="cannot be"):
        RawStore(tmp_path)


def test_a_file_cut_short_is_refused_by_name(path: Path, sample: list[Article]) -> None:
    with RawStore(path) as store:
        for article in sample[:50]:
            store.add(article)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OutsideError, match=r"store\.sqlite"), RawStore(path) as store:
        list(store)


def test_a_flipped_bit_anywhere_never_passes_for_good(path: Path, sample: list[Article]) -> None:
    with RawStore(path) as store:
        for article in sample[:20]:
            store.add(article)
    whole = path.read_bytes()
    for position in range(100, len(whole), len(whole) // 40):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            with RawStore(path) as store:
                texts = {article.text for article in store}
        except OutsideError:
            continue
        assert texts <= {article.text for article in sample[:20]}


def test_what_was_added_survives_sigkill_at_any_moment(path: Path) -> None:
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05)
            writer.send_signal(signal.SIGKILL)
            last = int(writer.stdout.read().splitlines()[-1].rpartition(" ")[2] or -1)
        with RawStore(path) as store:
            held = list(store)
            assert store.damaged() == {}
        assert [article.page_id for article in held] == list(range(len(held)))
        assert len(held) >= last + 1


@pytest.mark.parametrize("ended", ["closed", "killed", "killed, its shared memory lost"])
def test_a_store_can_be_read_where_nothing_can_be_written(
    path: Path, read_only: Callable[[Path], AbstractContextManager[None]], ended: str
) -> None:
    if ended == "closed":
        with RawStore(path) as store:
            for number in range(5):
                store.add(Article(number, "Título", "Texto."))
    else:
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < 4:
                pass
            writer.kill()
        if ended.endswith("lost"):
            path.with_name(path.name + "-shm").unlink()
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with read_only(path.parent):
        with RawStore(path, read_only=True) as store:
            assert len(store) >= 5
            assert store.damaged() == {}
            assert [article.page_id for article in store] == list(range(len(store)))
            assert store.get_meta("complete") is None
            with pytest.raises(OutsideError, match="cannot be used"):
                store.set_meta("complete", True)
        with pytest.raises(OutsideError, match="cannot be used"):
            RawStore(path.with_name("other"), read_only=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_two_processes_may_use_the_same_file(store: RawStore, sample: list[Article]) -> None:
    with RawStore(store.path) as other:
        assert other.add(sample[5])
        assert sample[5].page_id in store
        assert not store.add(sample[5])
