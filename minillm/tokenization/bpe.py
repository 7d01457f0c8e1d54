"""Byte-level byte-pair encoding: no text is unknown."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from minillm.errors import SettingError
from minillm.tokenization.names import counting, frequent_names
from minillm.tokenization.tokenizer import SPECIAL_TOKENS, UNK, Tokenizer, splits_by

# The parts of GPT-2's pre-tokenization pattern, for the options that change it.
DIGIT, NUMBER = r" ?\p{N}", r" ?\p{N}+"
NAME = r" ?\p{Lu}\p{L}*(?: \p{Lu}\p{L}*)+"
PIECES = ("'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+")

# The vocabulary's characters for bytes: printable bytes as in Latin-1, the others by characters from U+0100 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {
    chr(0x100 + number): byte for number, byte in enumerate(sorted(set(range(0x100)) - set(PRINTABLE)))
}


class BPETokenizer(Tokenizer):
    """Byte-pair encoding over bytes; any string decodes to itself.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016), on the bytes of words, with
    the pre-tokenization of Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2, 2019).

    Ids: the special tokens, the 256 bytes, then the merges in the order learned, the most frequent pair first. So ids
    are only roughly sorted by frequency: bytes precede all merges, and later merges use the tokens of earlier ones.

    The vocabulary spells bytes as GPT-2's does (`token` returns "Ġde" for " de"); `decode` returns text, with U+FFFD
    for an incomplete character.

    With ``digits`` no token has two digits. With ``names`` the last entries are names with a space before them. Their
    merges have the lowest priority, so text without these names is encoded as without ``names``.
    """

    kind = "bpe"
    model = models.BPE
    smallest = len(SPECIAL_TOKENS) + 256
    VERSION = 1
    # A native tokenizer, and whether its pre-tokenization is that of this class, which loaded ones may not have.
    _checked: tuple[tokenizers.Tokenizer, bool] | None = None

    def _pipeline(self, model: models.Model, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        native = tokenizers.Tokenizer(model)
        native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if self.digits or names:
            pieces = [*([NAME] if names else []), DIGIT if self.digits else NUMBER, *PIECES]
            native.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex("|".join(pieces)), behavior="isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        native.decoder = decoders.ByteLevel()
        return native

    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        return trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )

    def check_size(self, vocab_size: int) -> None:
        """Check that a vocabulary of this size can be fitted.

        Raises:
            SettingError: it is too small, or too small for the number of names.
        """
        super().check_size(vocab_size)
        if (most := vocab_size - self.smallest) < self.names:
            raise SettingError("tokenizer.names", self.names, f"vocab_size={vocab_size} leaves room for {most} at most")

    def _trained(self, texts: Iterable[str], vocab_size: int, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        if not self.names:
            return super()._trained(texts, vocab_size)
        runs: Counter[str] = Counter()
        native = super()._trained(counting(texts, runs), vocab_size - self.names)
        state = json.loads(native.to_str())["model"]
        vocab, merges = state["vocab"], [tuple(merge) for merge in state["merges"]]

        def join(pieces: list[str]) -> str:
            """Add the merges that join pieces to one entry; return the entry."""
            whole = pieces[0]
            for piece in pieces[1:]:
                merges.append((whole, piece))
                whole += piece
                vocab.setdefault(whole, len(vocab))
            return whole

        for parts in frequent_names(runs, self.names):
            pieces = [native.encode(f" {part}").tokens for part in parts]
            whole = "".join(piece for word in pieces for piece in word)
            lacking = sum(len(word) - 1 for word in pieces) + 1
            if whole not in vocab and len(vocab) + lacking <= vocab_size:
                join([join(word) for word in pieces])
                native = self._pipeline(models.BPE(vocab, merges, unk_token=SPECIAL_TOKENS[UNK]), names=parts)
        return native

    @classmethod
    def _options(cls, native: tokenizers.Tokenizer) -> dict[str, Any]:
        names = sum(bool(re.search("[^Ġ]Ġ", token)) for token in native.get_vocab())
        return {"digits": splits_by(native, f"{DIGIT}|"), "names": names}

    @property
    def _has_pattern_only(self) -> bool:
        if self._checked is None or self._checked[0] is not self._native:
            state = json.loads(self._native.to_str())
            pre_tokenizer = state["pre_tokenizer"] or {}
            first, *others = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
            bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
            is_known = [first, *others] == [{**bytewise, "use_regex": True}] or (
                first.get("type") == "Split"
                and str(first["pattern"].get("Regex")).endswith("|".join(PIECES))
                and others == [{**bytewise, "use_regex": False}]
            )
            self._checked = self._native, is_known and state["normalizer"] is None
        return self._checked[1]

    def text(self, token_id: int) -> str:
        r"""Return an entry as text, with bytes of incomplete characters as ``\xc3``.

        Raises:
            IndexError: there is no such id.
        """
        token = self.token(token_id)
        if token_id < len(SPECIAL_TOKENS) or not BYTES.keys() >= set(token):
            return token  # a special token, of this project or of a loaded tokenizer
        return bytes(BYTES[character] for character in token).decode("utf-8", "backslashreplace")

    def _encode_whole(self, text: str) -> tuple[NDArray[np.int32], int]:
        return np.array(self.encode(text), dtype=np.int32), 0  # no byte is unknown

    def _encode_piece(self, piece: str) -> list[int]:
        return self.encode(piece)

    def _unknown_bytes(self, pieces: list[str], ids: NDArray[np.int32]) -> int:
        return 0
