import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.corpus import SampleSource
from minillm.data import EncodedFile
from minillm.data.encoded import write_split
from minillm.errors import OutsideError
from minillm.tokenization import BOS, EOS, BPETokenizer, Tokenizer, WordTokenizer

TEXTS = [article.text for article in SampleSource().articles(30, ())]


@pytest.fixture(params=[WordTokenizer, BPETokenizer])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer: Tokenizer = request.param()
    tokenizer.fit(TEXTS, 500)
    return tokenizer


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_every_document_reads_as_it_was_encoded(tokenizer: Tokenizer, tmp_path: Path, batch_size: int) -> None:
    path = tmp_path / "split.arrow"
    articles = ({"page_id": 100 + n, "text": text} for n, text in enumerate(TEXTS))
    write_split(path, articles, tokenizer, batch_size)
    split = EncodedFile(path)
    assert len(split) == 30
    assert split.page_ids.tolist() == list(range(100, 130))
    assert split.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    encoded = tokenizer.encode_batch(TEXTS)
    assert split.unknown_bytes.tolist() == [document.unknown_bytes for document in encoded]
    assert [ids.tolist() for ids in split] == [[BOS, *document.ids, EOS] for document in encoded]
    assert split[29].tolist() == [BOS, *encoded[29].ids, EOS]
    assert split.lengths.tolist() == [len(document.ids) + 2 for document in encoded]
    tokens = [token for document in encoded for token in document.ids]
    assert split.describe() == {
        "articles": 30,
        "tokens": len(tokens) + 30,
        "bytes": sum(len(text.encode()) for text in TEXTS),
        "unk_rate": tokens.count(1) / (len(tokens) + 30),
    }
    for outside in -1, 30:
        with pytest.raises(IndexError):
            split[outside]


def test_a_split_travels_to_another_process_as_its_path_alone(make_split: Callable[..., EncodedFile]) -> None:
    split = make_split(TEXTS)
    sent = pickle.dumps(split)
    assert len(sent) < 500
    assert [ids.tolist() for ids in pickle.loads(sent)] == [ids.tolist() for ids in split]


def test_a_split_without_articles_is_empty(make_split: Callable[..., EncodedFile]) -> None:
    split = make_split([], known=TEXTS)
    assert (len(split), split.num_targets, list(split), len(split.lengths)) == (0, 0, [], 0)


def test_a_missing_or_damaged_file_is_one_line_that_says_what_to_do(make_split: Callable[..., EncodedFile]) -> None:
    path = make_split(TEXTS).path
    whole = path.read_bytes()
    for damaged in b"", whole[:100], whole[: len(whole) // 2], whole[:-20]:
        path.unlink()
        path.write_bytes(damaged)
        with pytest.raises(OutsideError, match=r"split.arrow cannot be read \(.*delete its folder") as caught:
            EncodedFile(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(OutsideError, match=r"split.arrow cannot be read"):
        EncodedFile(path)


def test_several_processes_write_the_same_file_as_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"page_id": n, "text": text} for n, text in enumerate(TEXTS * 5)]
    counts = [
        write_split(tmp_path / str(processes), iter(rows), tokenizer, batch_size=20, processes=processes)
        for processes in (1, 2)
    ]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert counts == [EncodedFile(tmp_path / "1").describe()] * 2
