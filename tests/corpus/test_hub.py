import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minillm.corpus import Corpus, DuplicateFilter, HubSource, RawStore
from minillm.errors import OutsideError, SettingError

PROSE = "El pueblo está en el valle del río, y lo fundaron los colonos."
KEEP_ALL = DuplicateFilter(exact=False, near=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the form that wikimedia/wikipedia has."""
    (tmp_path / "hub").mkdir()
    for part in range(2):
        ids = [str(number) for number in range(part * 50, part * 50 + 50)]
        texts = [f"El pueblo {n} está en el valle del río, y lo fundaron los colonos. " * 10 for n in ids]
        columns = {"id": ids, "url": [f"https://es.example.org/{n}" for n in ids], "title": ids, "text": texts}
        pq.write_table(pa.table(columns), tmp_path / "hub" / f"train-0000{part}.parquet")
    return tmp_path / "hub"


def test_a_folder_works_in_place_of_the_dataset(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus(HubSource(str(folder)), tmp_path / "data", num_articles=None, duplicates=KEEP_ALL)
    assert corpus.manifest["funnel"]["read"] == 100
    with RawStore(tmp_path / "store.sqlite") as store:
        articles = list(HubSource(str(folder)).articles(60, store))
        assert [article.page_id for article in articles] == list(range(60))
        assert (articles[3].title, articles[3].url) == ("3", "https://es.example.org/3")
        assert articles[3].licence == "CC BY-SA 3.0"
        for article in articles:
            store.add(article)
        assert [article.page_id for article in HubSource(str(folder)).articles(5, store)] == list(range(60, 65))
        assert len(list(HubSource(str(folder)).articles(None, store))) == 40


def test_rows_that_cannot_be_used_are_named_and_counted_and_the_others_are_read(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ["abc", "", None, str(2**70), "-1", "1000", "1001"]
    columns = {"id": ids, "url": [None] * 7, "title": ["a"] * 7, "text": [PROSE] * 5 + [None, PROSE]}
    pq.write_table(pa.table({**columns, "url": pa.array([None] * 7, pa.string())}), folder / "train-00000a.parquet")
    with RawStore(tmp_path / "store.sqlite") as store:
        articles = list(HubSource(str(folder)).articles(None, store))
    assert len(articles) == 101
    assert "row 51 has no id from 0 to 2^63 - 1" in caplog.text
    assert "row 56 has a title, text or url that is no text" in caplog.text
    assert "6 rows could not be used" in caplog.text
    assert "pueblo" not in caplog.text


def test_other_files_are_another_corpus(folder: Path) -> None:
    before = HubSource(str(folder)).describe()
    assert before == HubSource(str(folder), streaming=False).describe()
    next(folder.iterdir()).unlink()
    assert HubSource(str(folder)).describe() != before


def test_folders_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    def prepare(path: Path) -> None:
        Corpus(HubSource(str(path)), tmp_path / "data").prepare()

    with pytest.raises(SettingError, match=r"^data\.source\.path=.*: does not exist"):
        prepare(tmp_path / "nada")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"holds no \.parquet file"):
        prepare(tmp_path / "empty")
    pq.write_table(pa.table({"id": ["1"], "title": ["a"], "url": ["b"]}), folder / "z.parquet")
    with pytest.raises(SettingError, match="lacks text: a Wikipedia dataset has id, url, title, text; data=files"):
        prepare(folder)
    (folder / "z.parquet").write_bytes(b"nada")
    with pytest.raises(SettingError, match="cannot be read as Parquet"):
        prepare(folder)


def test_without_a_hub_the_advice_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("minillm.corpus.sources.hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("minillm.corpus.sources.hub.load_dataset", unreachable)
    with pytest.raises(OutsideError, match="Couldn't reach the Hub; is the name right and the network up"):
        Corpus(HubSource(), tmp_path).prepare()


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Put a folder in the hub's place, whose dataset has a new commit each time; the revisions that are loaded."""
    from datasets import load_dataset

    loaded: list[str | None] = []
    commits = iter(["1" * 40, "2" * 40])

    def load(path: str, config: str, split: str, streaming: bool, revision: str | None = None) -> Any:
        assert (path, config, split) == ("wikimedia/wikipedia", "20231101.es", "train")
        loaded.append(revision)
        return load_dataset(str(folder), split=split, streaming=streaming, cache_dir=str(tmp_path / "cache"))

    def info(*_: Any, **__: Any) -> Any:
        if commit := next(commits, None):
            return SimpleNamespace(sha=commit)
        raise ConnectionError("offline")

    monkeypatch.setattr("minillm.corpus.sources.hub.load_dataset", load)
    monkeypatch.setattr("minillm.corpus.sources.hub.HfApi.dataset_info", info)
    return loaded


@pytest.mark.parametrize("streaming", [True, False])
def test_the_dataset_is_loaded_by_name_and_configuration(hub: Any, tmp_path: Path, streaming: bool) -> None:
    corpus = Corpus(HubSource(streaming=streaming), tmp_path / "data", num_articles=70, duplicates=KEEP_ALL)
    assert corpus.manifest["funnel"]["read"] == 70


def test_the_revision_is_recorded_and_kept_to(hub: list[str | None], tmp_path: Path) -> None:
    for num_articles in 70, 90:
        corpus = Corpus(HubSource(), tmp_path / "data", num_articles=num_articles, duplicates=KEEP_ALL)
        origin = {"dataset": "wikimedia/wikipedia", "config": "20231101.es", "revision": "1" * 40}
        assert corpus.manifest["reading"]["origin"] == origin
        lock = json.loads((corpus.prepare() / "corpus.lock.json").read_text(encoding="utf-8"))
        assert lock["source"].items() >= {"name": "hub", **origin}.items()
    assert hub == ["1" * 40] * 2


def test_a_hub_that_does_not_tell_its_revision_leaves_it_open(
    hub: list[str | None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, revision in enumerate([None, None, None, "v1"]):
        source = HubSource(revision=revision)
        corpus = Corpus(source, tmp_path / str(number), num_articles=70, duplicates=KEEP_ALL)
        assert corpus.manifest["funnel"]["read"] == 70
    assert hub == ["1" * 40, "2" * 40, None, "v1"]
    assert "the hub does not tell the revision of wikimedia/wikipedia (ConnectionError)" in caplog.text
