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
from minillm.tokenization.tokenizer import SPECIAL_TOKENS, UNK, Tokenizer, parted_by

# Insides of character classes. The degree sign, dashes, straight quotes, apostrophes, slashes, the line break and
# whatever else is in none of the three have no usual side, and so no space of their own.
LETTER = r"\p{L}\p{M}\p{N}"
CLOSING = r".,;:!?)\]}»”…%‰"
OPENING = r"(\[{«“‘„¿¡"

# A run of letters and digits; a separator between two digits belongs to the number: "1.492,5".
WORD = rf"[{LETTER}]++(?:(?<=\p{{N}})[.,:](?=\p{{N}})[{LETTER}]++)*+"

# The same where numbers are spelled: one digit, or a run of letters, and digits and letters that touch it ("H2O").
SPELLED = r"(?:\p{N}|[\p{L}\p{M}]++)(?:(?<=\p{N})[\p{L}\p{M}]++|(?<=[\p{L}\p{M}])\p{N})*+"

# A space between two digits, which then has to be told.
DIGIT_APART = r" (?<=\p{N} )(?=\p{N})"


def token_pattern(digits: bool = False, names: Sequence[str] = ()) -> str:
    """Return the pattern of one token.

    It is several spaces; or a word, name or usual mark, with what touches it against the rule; or any other character.
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


# Stands between two tokens while a text is put together: a noncharacter, which Unicode keeps out of texts.
SEAM = "\uffff"


class WordTokenizer(Tokenizer):
    """Words, numbers and punctuation marks by falling frequency; everything else is [UNK].

    Ids run by falling frequency, ties in code point order. Case is kept, a line break is a token.

    Spacing follows one rule: a space stands between two tokens if the first ends in a letter, digit or closing mark and
    the second begins with a letter, digit or opening mark, and nowhere else. That gives «¿Qué?», 1.492,5 km, (1492). or
    24-10. What a text spaces otherwise stays inside a token: a space too many goes to the mark beside it (the ' %' of
    "59 %", the ' "' and '" ' around a quotation, the ' —' that opens an aside), a space too few joins (the '.º' of
    "n.º", the '.UU' of "EE.UU."). So a text whose tokens are all known decodes to itself, and no spacing comes for
    free. Dropped are only a single space at the end of a text, so that a prompt may end in one, or before its first
    word, and U+FFFF.

    Words are parted at hyphens and apostrophes: the parts of "franco-prusiana" are known more often than the whole.

    With ``digits`` a number is a token a digit, none of which is unknown, and no space stands between two digits by the
    rule. With ``names`` the most frequent names are one token each, so far as the vocabulary goes.
    """

    kind = "word"
    model = models.WordLevel
    smallest = len(SPECIAL_TOKENS) + 1
    VERSION = 1

    def _pipeline(self, model: models.Model, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        native = tokenizers.Tokenizer(model)
        # What the pattern leaves unmatched is the spaces that the rule puts back.
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
        return {"digits": parted_by(native, SPELLED), "names": names}

    def _encode_whole(self, text: str) -> tuple[NDArray[np.int32], int]:
        encoding = self._native.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        return ids, self._unknown_bytes([text[start:end] for start, end in encoding.offsets], ids)

    def _encode_piece(self, piece: str) -> list[int]:
        token_id = self._native.token_to_id(piece)
        return [UNK if token_id is None else token_id]

    def _unknown_bytes(self, pieces: list[str], ids: NDArray[np.int32]) -> int:
        return sum(self.unknown_cost(pieces[place]) for place in np.flatnonzero(ids == UNK).tolist())
