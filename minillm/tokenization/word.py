"""A vocabulary of the most frequent words, with exact spacing."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from minillm.tokenization.names import counting, frequent_names
from minillm.tokenization.tokenizer import SPECIAL_TOKENS, UNK, Tokenizer, splits_by

# Contents of character classes. All other characters, such as the degree sign, dashes, straight quotes, apostrophes,
# slashes and the line break, have no usual spacing, so the rule gives them no space.
LETTER = r"\p{L}\p{M}\p{N}"
CLOSING = r".,;:!?)\]}»”…%‰"
OPENING = r"(\[{«“‘„¿¡"

# A run of letters and digits; a separator between two digits belongs to the number: "1.492,5".
WORD = rf"[{LETTER}]++(?:(?<=\p{{N}})[.,:](?=\p{{N}})[{LETTER}]++)*+"

# The same if digits are tokens: one digit or a run of letters, with adjacent digits and letters ("H2O").
SPELLED = r"(?:\p{N}|[\p{L}\p{M}]++)(?:(?<=\p{N})[\p{L}\p{M}]++|(?<=[\p{L}\p{M}])\p{N})*+"

# A space between two digits, which is then part of a token.
DIGIT_APART = r" (?<=\p{N} )(?=\p{N})"


def token_pattern(digits: bool = False, names: Sequence[str] = ()) -> str:
    """Return the pattern of one token.

    A token is several spaces; or a word, name or common mark, with adjacent text that is spaced against the rule; or
    any other character.
    """
    word = SPELLED if digits else WORD
    first = [rf" ?[{CLOSING}]", rf"[{OPENING}]", word]
    if names:
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        first.insert(0, rf"(?=\p{{Lu}})(?:{'|'.join(map(re.escape, longest_first))})(?![{LETTER}])")
    if digits:
        first.insert(0, rf"{DIGIT_APART}{word}")
    return (
        r" {2,}"
        rf"|(?:{'|'.join(first)})"
        rf"(?:(?<=[{LETTER}{CLOSING}])[{OPENING}]|(?<=[{CLOSING}]){word})*+"
        rf"(?:(?<=[{OPENING}]) (?=[{LETTER}{OPENING}]))?"
        rf"| ?[^{LETTER}{CLOSING}{OPENING} ](?: (?=[{LETTER}{OPENING}]))?"
    )


# Separates two tokens during decoding: a Unicode noncharacter, which texts do not contain.
SEAM = "\uffff"


class WordTokenizer(Tokenizer):
    """The most frequent words, numbers and punctuation marks; everything else is [UNK].

    Ids are sorted by descending frequency, ties by code point. Case is kept, a line break is a token.

    Spacing follows one rule: there is a space between two tokens if the first ends with a letter, digit or closing mark
    and the second starts with a letter, digit or opening mark. This gives «¿Qué?», 1.492,5 km, (1492). or 24-10. Other
    spacing is part of a token: an additional space belongs to the mark beside it (the ' %' of "59 %", the ' "' and '" '
    around a quotation, the ' —' before an aside); a missing space joins two tokens (the '.º' of "n.º", the '.UU' of
    "EE.UU."). So a text of known tokens decodes to itself, and all its spacing is predicted. Only a single space at the
    end of a text (so that a prompt may end with one) or before its first word, and U+FFFF, are dropped.

    Words are split at hyphens and apostrophes: the parts of "franco-prusiana" are more often known than the whole.

    With ``digits`` each digit of a number is a token, which is never unknown, and the rule puts no space between
    digits. With ``names`` the most frequent names are single tokens, as far as the vocabulary has room.
    """

    kind = "word"
    model = models.WordLevel
    smallest = len(SPECIAL_TOKENS) + 1
    VERSION = 1

    def _pipeline(self, model: models.Model, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        native = tokenizers.Tokenizer(model)
        # The pattern matches everything but the spaces that the rule adds.
        pattern = Regex(token_pattern(self.digits, names))
        native.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
        between_digits = [decoders.Replace(Regex(rf"(?<=\p{{N}}){SEAM}(?=\p{{N}})"), "")] if self.digits else []
        native.decoder = decoders.Sequence(
            [
                decoders.Replace(Regex(r"\z"), SEAM),
                decoders.Fuse(),
                *between_digits,
                decoders.Replace(Regex(rf"(?<=[{LETTER}{CLOSING}]){SEAM}(?=[{LETTER}{OPENING}])"), " "),
                decoders.Replace(SEAM, ""),
            ]
        )
        return native

    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        return trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )

    def _trained(self, texts: Iterable[str], vocab_size: int, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        if self.names:
            runs: Counter[str] = Counter()
            texts = list(counting(texts, runs))
            names = [" ".join(parts) for parts in frequent_names(runs, self.names)]
        return super()._trained(texts, vocab_size, names)

    @classmethod
    def _options(cls, native: tokenizers.Tokenizer) -> dict[str, Any]:
        names = sum(bool(re.search(r"[^\W\d_] [^\W\d_]", token)) for token in native.get_vocab())
        return {"digits": splits_by(native, SPELLED), "names": names}

    def _encode_whole(self, text: str) -> tuple[NDArray[np.int32], int]:
        encoding = self._native.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        return ids, self._unknown_bytes([text[start:end] for start, end in encoding.offsets], ids)

    def _encode_piece(self, piece: str) -> list[int]:
        token_id = self._native.token_to_id(piece)
        return [UNK if token_id is None else token_id]

    def _unknown_bytes(self, pieces: list[str], ids: NDArray[np.int32]) -> int:
        return sum(self.unknown_cost(pieces[place]) for place in np.flatnonzero(ids == UNK).tolist())
