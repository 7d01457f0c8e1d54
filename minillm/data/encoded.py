"""Encoded documents on disk: token ids in a memory-mapped Arrow file."""

import contextlib
import mmap
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minillm.errors import OutsideError
from minillm.parallel import batches, in_order
from minillm.tokenization import BOS, EOS, UNK, Tokenizer, load_tokenizer
from minillm.tokenization.tokenizer import encoded_rows

SCHEMA = pa.schema(
    [
        ("page_id", pa.int64()),
        ("tokens", pa.list_(pa.int32())),  # [BOS] ... [EOS]
        ("bytes", pa.int64()),  # UTF-8 bytes of the cleaned text
        ("unknown_bytes", pa.int64()),  # sum over [UNK] tokens of (bytes of the surface form + 1)
    ]
)
BATCH = 500  # articles per write
PER_TASK = 64  # articles that a process encodes at a time


def write_split(
    path: Path, articles: Iterable[dict[str, Any]], tokenizer: Tokenizer, batch_size: int = BATCH, processes: int = 1
) -> dict[str, int | float]:
    """Encode articles and write them to an Arrow file; return `EncodedFile.describe` of it.

    Args:
        path: the file to write.
        articles: rows with ``page_id`` and ``text``.
        tokenizer: a fitted tokenizer.
        batch_size: articles per write, which bounds the memory.
        processes: number of processes that encode; 1: this one.
    """
    with EncodedFileWriter(path, batch_size) as writer:
        shares = batches(articles, min(batch_size, PER_TASK))
        for row, (ids, unknown_bytes) in in_order(partial(encoded_rows, tokenizer), shares, processes):
            writer.add(row["page_id"], ids, len(row["text"].encode()), unknown_bytes)
    return writer.describe()


def ranges(articles: int, total: int, tasks: int) -> list[tuple[int, int]]:
    """Return the ranges of articles, in whole batches of `write_split`, that divide a split into tasks.

    Args:
        articles: number of articles in the split.
        total: number of articles in all splits.
        tasks: approximate number of tasks for all splits.

    >>> ranges(1200, 2000, 2)
    [(0, 1000), (1000, 1200)]
    """
    size = -(-max(1, total // tasks) // BATCH) * BATCH
    return [(start, min(start + size, articles)) for start in range(0, articles, size)]


def encode_range(articles: Path, start: int, stop: int, tokenizer: Path, path: Path) -> None:
    """Encode a range of a split's articles and write them as `write_split` does.

    Args:
        articles: the split's file, from `minillm.corpus.Corpus`.
        start: the first article.
        stop: the article after the last.
        tokenizer: the file of a fitted tokenizer.
        path: the file to write.
    """
    write_split(path, _rows(articles, start, stop), load_tokenizer(tokenizer.read_text(encoding="utf-8")))


def _rows(path: Path, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield page_id and text of a range of articles, without reading the articles before it."""
    position = 0
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            begin, end = max(start - position, 0), min(stop - position, len(batch))
            position += len(batch)
            if begin < end:
                yield from batch.select(["page_id", "text"]).slice(begin, end - begin).to_pylist()
            if position >= stop:
                return


def join_pieces(pieces: Iterable[Path], path: Path) -> dict[str, int | float]:
    """Join files of `encode_range` to one file, equal to that of one `write_split`; return its description.

    Raises:
        OutsideError: a piece is damaged.
    """
    articles = targets = size = unknown = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for piece in pieces:
            try:
                with pa.OSFile(str(piece)) as content, pa.ipc.open_file(content) as reader:
                    for number in range(reader.num_record_batches):
                        batch = reader.get_batch(number)
                        tokens = batch["tokens"].flatten().to_numpy(zero_copy_only=True)
                        articles += len(batch)
                        targets += len(tokens) - len(batch)
                        size += int(batch["bytes"].to_numpy().sum())
                        unknown += int(np.count_nonzero(tokens == UNK))
                        writer.write_batch(batch)
            except (pa.ArrowException, ValueError) as error:
                raise OutsideError(
                    f"{piece}: is damaged ({error}); remove it and run the same command again"
                ) from error
    return _description(articles, targets, size, unknown)


class EncodedFileWriter:
    """Writes encoded documents to an Arrow file for `EncodedFile`.

    Args:
        path: the file to write.
        batch_size: documents per write.
    """

    def __init__(self, path: Path, batch_size: int = BATCH) -> None:
        self._batch_size = batch_size
        self._rows: list[tuple[int, NDArray[np.int32], int, int]] = []
        self._articles = self._targets = self._bytes = self._unknown = 0
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._file.close()

    def add(self, page_id: int, ids: NDArray[np.int32], size: int, unknown_bytes: int) -> None:
        """Write a document.

        Args:
            page_id: of the article.
            ids: token ids without [BOS] and [EOS].
            size: UTF-8 bytes of the text.
            unknown_bytes: cost of the unknown words, see `minillm.tokenization.Encoded`.
        """
        self._rows.append((page_id, ids, size, unknown_bytes))
        self._articles += 1
        self._targets += len(ids) + 1
        self._bytes += size
        self._unknown += int(np.count_nonzero(ids == UNK))
        if len(self._rows) == self._batch_size:
            self._flush()

    def describe(self) -> dict[str, int | float]:
        """Return the numbers of articles, tokens to predict and bytes, and the share of [UNK] among the tokens."""
        return _description(self._articles, self._targets, self._bytes, self._unknown)

    def _flush(self) -> None:
        if not self._rows:
            return
        page_ids, ids, sizes, unknown_bytes = zip(*self._rows, strict=True)
        begin, end = np.array([BOS], dtype=np.int32), np.array([EOS], dtype=np.int32)
        values = np.concatenate([part for document in ids for part in (begin, document, end)])
        offsets = np.cumsum([0, *(len(document) + 2 for document in ids)], dtype=np.int32)
        tokens = pa.ListArray.from_arrays(offsets, values)
        columns = [
            pa.array(page_ids, pa.int64()),
            tokens,
            pa.array(sizes, pa.int64()),
            pa.array(unknown_bytes, pa.int64()),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._rows.clear()


def _description(articles: int, targets: int, size: int, unknown: int) -> dict[str, int | float]:
    return {"articles": articles, "tokens": targets, "bytes": size, "unk_rate": unknown / max(1, targets)}


class EncodedFile:
    """Encoded documents in a memory-mapped file.

    Args:
        path: a file of `write_split`.

    Raises:
        OutsideError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        except (OSError, ValueError, pa.ArrowInvalid) as error:  # ValueError: an empty file
            raise OutsideError(f"{path} cannot be read ({error}); delete its folder to have it made again") from error
        self.page_ids = cast(np.ndarray, table["page_id"].to_numpy())
        self.bytes = cast(np.ndarray, table["bytes"].to_numpy())
        self.unknown_bytes = cast(np.ndarray, table["unknown_bytes"].to_numpy())
        chunks = table["tokens"].chunks
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._first = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths: np.ndarray = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int32)
        with contextlib.suppress(AttributeError):  # Windows has none
            # Release the pages that were read so far, with their neighbours, all over the file.
            mapped.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[type["EncodedFile"], tuple[Path]]:
        # A worker process opens the file itself instead of receiving a copy of the data.
        return EncodedFile, (self.path,)

    def __len__(self) -> int:
        return len(self.page_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a document's token ids, [BOS] first and [EOS] last, int32; a view into the file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        chunk = int(np.searchsorted(self._first, index, side="right")) - 1
        start, end = self._offsets[chunk][index - self._first[chunk] :][:2]
        return self._values[chunk][start:end]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def num_targets(self) -> int:
        """Number of tokens to predict: all but [BOS]."""
        return int(self.lengths.sum()) - len(self)

    def describe(self) -> dict[str, int | float]:
        """Return the numbers of articles, tokens to predict and bytes, and the share of [UNK] among the tokens."""
        unknown = sum(int((values == UNK).sum()) for values in self._values)
        return _description(len(self), self.num_targets, int(self.bytes.sum()), unknown)
