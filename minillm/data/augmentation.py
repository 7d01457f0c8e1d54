"""Augmentation: random changes of the training split, drawn for each epoch; not of validation and test."""

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

from minillm.data.batching import Batch, EncodedDocuments, PackedRows, Windows
from minillm.data.encoded import EncodedFile, EncodedFileWriter
from minillm.errors import SettingError
from minillm.parallel import batches
from minillm.tokenization import EOS, UNK, BPETokenizer, Tokenizer
from minillm.tokenization.bpe_dropout import BPEDropout

TEXT, INPUTS = 1, 2  # part of the generators' seeds, after seed and epoch, so that their draws are independent

# A sentence ends at a line break, or at a mark followed by a capital letter, but not after an initial or abbreviation.
SENTENCE_END = re.compile(r"(?<!\w)(\w*+)(?<![.!?…])([.!?…]++)[»\"')\]]*+( ++)(?=[¿¡«\"'(\[—]*[A-ZÀ-ÖØ-Þ])|(\n+)")
ABBREVIATIONS = frozenset(
    ["Sr", "Sra", "Srta", "Dr", "Dra", "Prof", "St", "Sto", "Sta", "Gral", "Cnel", "Mons", "Lic", "Ing", "vs"]
)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training split, which depend only on the seed and the epoch.

    Args:
        word_dropout: probability of replacing an input token (not a target, not [BOS]) by [UNK], so that the network
            relies less on the last few words (Iyyer et al. 2015, Bowman et al. 2016).
        bpe_dropout: probability of skipping a merge of the BPE tokenizer, see `minillm.tokenization.bpe_dropout`; 0.1
            in the paper.
        sentence_reordering: probability of shuffling an article's sentences. Spaces and line breaks between them stay
            where they are.

    Raises:
        SettingError: a value outside [0, 1].
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
        """Whether the articles must be encoded again each epoch."""
        return self.bpe_dropout > 0 or self.sentence_reordering > 0

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self.word_dropout > 0 or self.changes_text


class Augmented(Dataset[Batch]):
    """The windows or packed rows of an augmented training split.

    If the augmentation changes the text, a temporary file holds the epoch's tokens, 4 bytes each, until the next epoch.

    Args:
        split: the unchanged articles, encoded.
        texts: the unchanged articles' texts.
        tokenizer: the tokenizer that encoded them.
        augmentation: the changes.
        cut: cuts documents into windows or packed rows.
        seed: seed and epoch determine the changes.
        folder: for the temporary file; None: the system's folder for these.
    """

    def __init__(
        self,
        split: EncodedFile,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        augmentation: Augmentation,
        cut: Callable[[EncodedDocuments], Windows | PackedRows],
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
        """Return the mean of a token's value over the targets of each window or row; see `Windows.mean`."""
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
        # Another process only reads the file; this one removes it.
        return {**self.__dict__, "_folder": None}

    def _documents(self, epoch: int, batch_size: int = 500) -> EncodedFile:
        """Encode the epoch's text, and remove the file of the epoch before."""
        assert self._folder
        random = np.random.default_rng((self.seed, epoch, TEXT))
        dropout = None
        if self.augmentation.bpe_dropout > 0:
            assert isinstance(self.tokenizer, BPETokenizer)
            dropout = BPEDropout(self.tokenizer, self.augmentation.bpe_dropout)
        for old in Path(self._folder.name).iterdir():
            with contextlib.suppress(PermissionError):  # some systems cannot remove a file that is still mapped
                old.unlink()
        path = Path(self._folder.name) / f"{epoch}.arrow"
        number = 0
        with EncodedFileWriter(path, batch_size) as writer:
            for texts in batches(self.texts, batch_size):
                if self.augmentation.sentence_reordering > 0:
                    texts = [reordered(text, self.augmentation.sentence_reordering, random) for text in texts]
                encoded: Iterable[tuple[NDArray[np.int32], int]]
                if dropout:
                    encoded = ((ids, 0) for ids in dropout.encode_batch(texts, random))
                else:
                    encoded = map(self.tokenizer.encode_counting, texts)
                for ids, unknown_bytes in encoded:
                    # Reordering does not change the number of bytes.
                    writer.add(int(self.split.page_ids[number]), ids, int(self.split.bytes[number]), unknown_bytes)
                    number += 1
        return EncodedFile(path)


def reordered(text: str, probability: float, random: np.random.Generator) -> str:
    """Return a text with its sentences shuffled, with the given probability, or otherwise unchanged."""
    if random.random() >= probability:
        return text
    pieces = sentences(text)
    order = random.permutation(len(pieces))
    return "".join(pieces[place][0] + between for place, (_, between) in zip(order, pieces, strict=True))


def sentences(text: str) -> list[tuple[str, str]]:
    r"""Return a text's sentences, each with the separator after it.

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
