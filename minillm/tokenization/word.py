"""A vocabulary of the most frequent words, with exact spacing."""

from collections.abc import Sequence

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from minillm.tokenization.tokenizer import SPECIAL_TOKENS, UNK, Encoded, Tokenizer

# Insides of character classes. The degree sign, dashes, straight quotes, apostrophes, slashes, the line break and
# whatever else is in none of the three have no usual side, and so no space of their own.
LETTER = r"\p{L}\p{M}\p{N}"
CLOSING = r".,;:!?)\]}»”…%‰"
OPENING = r"(\[{«“‘„¿¡"

# A run of letters and digits; a separator between two digits belongs to the number: "1.492,5".
WORD = rf"[{LETTER}]++(?:(?<=\p{{N}})[.,:](?=\p{{N}})[{LETTER}]++)*+"

# One token: several spaces; or a word or usual mark, with what touches it against the rule; or any other character.
TOKEN = (
    r" {2,}"
    rf"|(?: ?[{CLOSING}]|[{OPENING}]|{WORD})"
    rf"(?:(?<=[{LETTER}{CLOSING}])[{OPENING}]|(?<=[{CLOSING}]){WORD})*+"
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
    """

    kind = "word"
    model = models.WordLevel
    smallest = len(SPECIAL_TOKENS) + 1
    VERSION = 1

    def _pipeline(self, model: models.Model) -> tokenizers.Tokenizer:
        native = tokenizers.Tokenizer(model)
        # What the pattern leaves unmatched is the spaces that the rule puts back.
        native.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)
        native.decoder = decoders.Sequence(
            [
                decoders.Replace(Regex(r"\z"), SEAM),
                decoders.Fuse(),
                decoders.Replace(Regex(rf"(?<=[{LETTER}{CLOSING}]){SEAM}(?=[{LETTER}{OPENING}])"), " "),
                decoders.Replace(SEAM, ""),
            ]
        )
        return native

    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        return trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode many texts at once, on all cores; bytes are counted where a word is unknown."""
        encodings = self._native.encode_batch(texts, add_special_tokens=False)
        return [
            Encoded(encoding.ids, _unknown_bytes(text, encoding))
            for text, encoding in zip(texts, encodings, strict=True)
        ]


def _unknown_bytes(text: str, encoding: tokenizers.Encoding) -> int:
    spans = zip(encoding.ids, encoding.offsets, strict=True)
    return sum(len(text[start:end].encode()) + 1 for token_id, (start, end) in spans if token_id == UNK)
