import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minillm.corpus import Article, Corpus, FilesSource, SampleSource
from tests.corpus import mediawiki


@pytest.fixture(scope="session")
def sample() -> list[Article]:
    return list(SampleSource().articles(None, ()))


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """Make a corpus of records (written as .jsonl), or of the sample; its data_dir is the test's own."""

    def make(records: Iterable[dict[str, Any]] | None = None, **settings: Any) -> Corpus:
        if records is None:
            return Corpus(SampleSource(), tmp_path / "data", **settings)
        file = tmp_path / "records.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return Corpus(FilesSource(str(file)), tmp_path / "data", **settings)

    return make


@pytest.fixture(scope="session")
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mediawiki.Wiki]:
    """A real MediaWiki with 300 articles; tests that use it carry the marker ``mediawiki``."""
    if lacking := mediawiki.missing():
        pytest.skip(lacking)
    with mediawiki.running(tmp_path_factory.mktemp("mediawiki"), articles=292) as wiki:
        yield wiki
