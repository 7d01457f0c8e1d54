"""Encoded splits on disk: each document's token ids in an Arrow file, memory-mapped."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from minillm.errors import OutsideError
from minillm.tokenization import BOS, EOS, UNK, Tokenizer

SCHEMA = pa.schema(
    [
        ("page_id", pa.int64()),
        ("tokens", pa.list_(pa.int32())),  # [BOS] ... [EOS]
        ("bytes", pa.int64()),  # UTF-8 bytes of the cleaned text
        ("unknown_bytes", pa.int64()),  # sum over [UNK] tokens of (bytes of the surface form + 1)
    ]
)


def write_split(path: Path, articles: Iterable[dict[str, Any]], tokenizer: Tokenizer, batch_size: int = 500) -> None:
    """Encode articles and write them to an Arrow file, a batch at a time.

    Args:
        path: the file to write.
        articles: rows with ``page_id`` and ``text``.
        tokenizer: a fitted tokenizer.
        batch_size: articles encoded at once: bounds the memory.
    """
    rows = iter(articles)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while batch := list(itertools.islice(rows, batch_size)):
            texts = [row["text"] for row in batch]
            encoded = tokenizer.encode_batch(texts)
            columns = [
                [row["page_id"] for row in batch],
                [[BOS, *document.ids, EOS] for document in encoded],
                [len(text.encode("utf-8")) for text in texts],
                [document.unknown_bytes for document in encoded],
            ]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


class EncodedSplit:
    """The documents of one split, read through a memory map: nothing is copied before it is used.

    Args:
        path: the file that `write_split` wrote.

    Raises:
        OutsideError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
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

    def __reduce__(self) -> tuple[type["EncodedSplit"], tuple[Path]]:
        # A worker process opens the file anew instead of receiving a copy of what is mapped.
        return EncodedSplit, (self.path,)

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
        """Tokens to predict: all but each document's [BOS]."""
        return int(self.lengths.sum()) - len(self)

    def describe(self) -> dict[str, int | float]:
        """Return the split's size: articles, tokens to predict, bytes, and the share of [UNK] among the tokens."""
        unknown = sum(int((values == UNK).sum()) for values in self._values)
        return {
            "articles": len(self),
            "tokens": self.num_targets,
            "bytes": int(self.bytes.sum()),
            "unk_rate": unknown / self.num_targets,
        }
