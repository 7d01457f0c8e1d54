from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.data import EncodedFile
from minillm.data.encoded import write_split
from minillm.tokenization import WordTokenizer


@pytest.fixture
def make_split(tmp_path: Path) -> Callable[..., EncodedFile]:
    """Encode texts whose words are all known; every second word is unknown where asked for."""

    def make(texts: list[str], known: list[str] | None = None) -> EncodedFile:
        tokenizer = WordTokenizer()
        tokenizer.fit(known or texts, 1000)
        path = tmp_path / "split.arrow"
        write_split(path, ({"page_id": n, "text": text} for n, text in enumerate(texts)), tokenizer, batch_size=4)
        return EncodedFile(path)

    return make
