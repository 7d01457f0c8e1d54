"""Sums per article, from which a split's figures and their confidence intervals are computed."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from minillm.errors import OutsideError
from minillm.files import written_whole

ARTICLES = Path("evaluation", "articles.parquet")
SPLIT = "split"  # the column with the article's split


@dataclass(frozen=True)
class ArticleSums:
    """Sums for each article of a split, (N,) each.

    Args:
        page_ids: int64, the articles' page ids.
        tokens: int64, number of targets: all tokens but [BOS].
        nats: float64, total cross-entropy.
        hits: int64, number of targets that are the most probable token.
        unknown: int64, number of [UNK] targets.
        unknown_hits: int64, hits among these.
        bytes: int64, UTF-8 bytes of the text.
        unknown_bytes: int64, cost of the unknown words, see `minillm.tokenization.Encoded`.
    """

    page_ids: NDArray[np.int64]
    tokens: NDArray[np.int64]
    nats: NDArray[np.float64]
    hits: NDArray[np.int64]
    unknown: NDArray[np.int64]
    unknown_hits: NDArray[np.int64]
    bytes: NDArray[np.int64]
    unknown_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.page_ids)

    def __getitem__(self, chosen: NDArray[Any]) -> Self:
        """Return the articles with these indices."""
        return type(self)(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @cached_property
    def ratios(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The figures that are ratios of sums: each article's parts of numerator and denominator, by figure."""
        tokens = self.tokens.astype(np.float64)
        return {
            "loss": (self.nats, tokens),
            "bits_per_byte": (self.nats / math.log(2) + 8 * self.unknown_bytes, self.bytes.astype(np.float64)),
            "accuracy": (self.hits.astype(np.float64), tokens),
            "accuracy_without_unknown": ((self.hits - self.unknown_hits).astype(np.float64), tokens - self.unknown),
        }

    @cached_property
    def figures(self) -> dict[str, float]:
        """The figures of all articles together: loss, perplexity = exp(loss), bits_per_byte, accuracy, and
        accuracy_without_unknown; NaN if the denominator is 0.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            figures = {
                name: float(numerator.sum() / denominator.sum())
                for name, (numerator, denominator) in self.ratios.items()
            }
            return {**figures, "perplexity": float(np.exp(figures["loss"]))}

    @property
    def sha256(self) -> str:
        """A SHA-256 of all sums."""
        digest = hashlib.sha256()
        for each in fields(self):
            digest.update(getattr(self, each.name).astype("<f8" if each.name == "nats" else "<i8").tobytes())
        return digest.hexdigest()


def write_articles(splits: Mapping[str, ArticleSums], path: Path) -> None:
    """Write the sums of each split's articles to one Parquet file, atomically.

    Args:
        splits: the sums by split.
        path: the file; about 20 bytes per article.

    Raises:
        OSError: it cannot be written.
    """
    tables = [
        pa.table({SPLIT: [name] * len(sums), **{each.name: getattr(sums, each.name) for each in fields(sums)}})
        for name, sums in splits.items()
    ]
    with written_whole(path) as file:
        pq.write_table(pa.concat_tables(tables), file, compression="zstd")


def read_articles(run: Path, split: str, sha256: str) -> ArticleSums:
    """Read the sums of a split's articles that an evaluation wrote into a run's folder.

    Args:
        run: the run's folder.
        split: the split's name.
        sha256: the SHA-256 of the sums, from the evaluation.

    Raises:
        OutsideError: the file is missing, damaged, or of another evaluation.
    """
    path = run / ARTICLES
    try:
        table = pq.read_table(path, filters=[(SPLIT, "==", split)])
        sums = ArticleSums(*(table[each.name].to_numpy() for each in fields(ArticleSums)))
        found = sums.sha256
    except (OSError, ValueError, LookupError, TypeError, MemoryError, pa.ArrowException) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise OutsideError(f"{path}: {reason}; evaluate the run again") from error
    if found != sha256:
        raise OutsideError(f"{path}: damaged, or of another evaluation; evaluate the run again")
    return sums
