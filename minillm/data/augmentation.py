"""Augmentation: the training split a little different each epoch; validation and test never."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from minillm.data.batching import Batch, Documents, PackedRows, Windows
from minillm.data.encoded import EncodedSplit, SplitWriter
from minillm.errors import SettingError
from minillm.parallel import batches
from minillm.tokenization import EOS, UNK, BPETokenizer, Tokenizer
from minillm.tokenization.bpe_dropout import BPEDropout

TEXT, INPUTS = 1, 2  # what is drawn: behind seed and epoch, these keep the draws apart

# A sentence ends at a line break, or where a capital letter follows its mark; not behind an initial or an abbreviation.
SENTENCE_END = re.compile(r"(?<!\w)(\w*+)(?<![.!?…])([.!?…]++)[»\"')\]]*+( ++)(?=[¿¡«\"'(\[—]*[A-ZÀ-ÖØ-Þ])|(\n+)")
ABBREVIATIONS = frozenset(
    ["Sr", "Sra", "Srta", "Dr", "Dra", "Prof", "St", "Sto", "Sta", "Gral", "Cnel", "Mons", "Lic", "Ing", "vs"]
)


@dataclass(frozen=True)
class Augmentation:
    """What is changed in the training split, drawn anew each epoch, from the seed and the epoch alone.

    Args:
        word_dropout: probability with which an input token (not a target, not [BOS]) shows as [UNK], so that the
            network leans less on the last few words (Iyyer et al. 2015, Bowman et al. 2016).
        bpe_dropout: probability with which a merge of the BPE tokenizer is left out, see
            `minillm.tokenization.bpe_dropout`; 0.1 in the paper.
        sentence_reordering: probability with which an article's sentences stand in another order. What is between
            them, spaces and line breaks, stays in its place.

    Raises:
        SettingError: a value that is no probability.
    """

    word_dropout: float = 0.0
    bpe_dropout: float = 0.0
    sentence_reordering: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise SettingError(field.name, value, "must be a probability, from 0 (off) to 1, such as 0.1")

    @property
    def changes_text(self) -> bool:
        """Whether the articles have to be encoded anew each epoch."""
        return self.bpe_dropout > 0 or self.sentence_reordering > 0

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self.word_dropout > 0 or self.changes_text


class Augmented(Dataset[Batch]):
    """A training split in windows or packed rows, as an `Augmentation` has it in each epoch.

    Where the text changes, the epoch's tokens lie in a file, 4 bytes each, until the next epoch's are there.

    Args:
        split: the encoded articles as they are.
        texts: the same articles' text.
        tokenizer: what encoded them.
        augmentation: what is changed.
        cut: makes windows or packed rows of documents.
        seed: with the epoch it decides what is drawn.
        folder: where there is room for an epoch's tokens; None: where temporary files go.
    """

    def __init__(
        self,
        split: EncodedSplit,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        augmentation: Augmentation,
        cut: Callable[[Documents], Windows | PackedRows],
        seed: int,
        folder: Path | None = None,
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if augmentation.changes_text:
            self._folder = tempfile.TemporaryDirectory(prefix="epochs-", dir=folder, ignore_cleanup_errors=True)
        self.split, self.texts, self.tokenizer = split, texts, tokenizer
        self.augmentation, self.cut, self.seed = augmentation, cut, seed
        self.epoch: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's text."""
        if epoch == self.epoch:
            return
        if self.epoch is None or self.augmentation.changes_text:
            self.items = self.cut(self._documents(epoch) if self.augmentation.changes_text else self.split)
        self.epoch = epoch
        if isinstance(self.items, PackedRows):
            self.items.set_epoch(epoch)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each window or row of the epoch."""
        return self.items.lengths

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of a figure of each token over the targets of each window or row; see `Windows.mean`."""
        return self.items.mean(values)

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return windows or rows as one batch."""
        batch = self.items.__getitems__(indices)
        if self.augmentation.word_dropout > 0:
            random = np.random.default_rng((self.seed, self.epoch or 0, INPUTS, *indices))
            inputs = batch["inputs"].numpy()
            hidden = random.random(inputs.shape, dtype=np.float32) < self.augmentation.word_dropout
            inputs[hidden & (inputs > EOS)] = UNK
        return batch

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the files; this one removes them.
        return {**self.__dict__, "_folder": None}

    def _documents(self, epoch: int, batch_size: int = 500) -> EncodedSplit:
        """Encode the epoch's text, and remove what the epoch before has left."""
        assert self._folder
        random = np.random.default_rng((self.seed, epoch, TEXT))
        dropout = None
        if self.augmentation.bpe_dropout > 0:
            assert isinstance(self.tokenizer, BPETokenizer)
            dropout = BPEDropout(self.tokenizer, self.augmentation.bpe_dropout)
        for old in Path(self._folder.name).iterdir():
            with contextlib.suppress(PermissionError):  # where a system keeps files that are still mapped
                old.unlink()
        path = Path(self._folder.name) / f"{epoch}.arrow"
        number = 0
        with SplitWriter(path, batch_size) as writer:
            for texts in batches(self.texts, batch_size):
                if self.augmentation.sentence_reordering > 0:
                    texts = [reordered(text, self.augmentation.sentence_reordering, random) for text in texts]
                encoded: Iterable[tuple[NDArray[np.int32], int]]
                if dropout:
                    encoded = ((ids, 0) for ids in dropout.encode_batch(texts, random))
                else:
                    encoded = map(self.tokenizer.encode_counting, texts)
                for ids, unknown_bytes in encoded:
                    # The bytes are those of the text as it is: its sentences only change places.
                    writer.add(int(self.split.page_ids[number]), ids, int(self.split.bytes[number]), unknown_bytes)
                    number += 1
        return EncodedSplit(path)


def reordered(text: str, probability: float, random: np.random.Generator) -> str:
    """Return a text with its sentences in a random order, or, with the rest of the probability, as it is."""
    if random.random() >= probability:
        return text
    pieces = sentences(text)
    order = random.permutation(len(pieces))
    return "".join(pieces[place][0] + between for place, (_, between) in zip(order, pieces, strict=True))


def sentences(text: str) -> list[tuple[str, str]]:
    r"""Return a text's sentences, each with what stands between it and the next.

    >>> sentences("¡Llegó! ¿Y el Dr. Gil y J. Ruiz, en el s. III a. C.?\n«Sí.» Fin")
    [('¡Llegó!', ' '), ('¿Y el Dr. Gil y J. Ruiz, en el s. III a. C.?', '\n'), ('«Sí.»', ' '), ('Fin', '')]
    """
    found, start = [], 0
    for match in SENTENCE_END.finditer(text):
        word, mark, space, line_break = match.groups()
        if line_break is None and mark == "." and (word in ABBREVIATIONS or (len(word) == 1 and word.isalpha())):
            continue
        between = line_break or space
        found.append((text[start : match.end() - len(between)], between))
        start = match.end()
    return [*found, (text[start:], "")]
