"""The interface that both tokenizers share, around a native `tokenizers.Tokenizer`."""

import hashlib
import json
import os
import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import regex
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, trainers

from minillm.errors import OutsideError, SettingError
from minillm.files import written_whole

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
LARGEST = 10_000_000  # entries of a vocabulary; BPE takes memory for all of them before it reads a text
# What ByteLevel parts a text into, by Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CATEGORIES = ("L", "Lu", "M", "N")  # of characters, that patterns of tokenizers name
# Before, `re` goes on from the wrong place after a possessive group that fails within itself, and may never end
# (https://github.com/python/cpython/issues/106052).
HAS_POSSESSIVE_GROUPS = sys.version_info >= (3, 11, 5)
REMEMBERED = 1 << 16  # pieces of text whose ids are remembered: about 10 MB


class Encoded(NamedTuple):
    """A text as ids, and what its unknown tokens cost.

    Attributes:
        ids: one id a token, without [BOS] and [EOS].
        unknown_bytes: sum over the [UNK] tokens of (UTF-8 bytes of the surface form + 1); at 8 bits each, what spelling
            them out would cost, so that bits per byte stays the length of a code that can be decoded.
    """

    ids: list[int]
    unknown_bytes: int


class Placed(NamedTuple):
    """A token of a text, and where it stands there.

    Attributes:
        id: of the token.
        start: its first character's place in the text. A space that goes without saying is in no token, and a character
            that takes several tokens has the same place in each.
        end: the place after its last character.
    """

    id: int
    start: int
    end: int


class Tokenizer(ABC):
    """Text to ids and back, with a vocabulary fitted on text.

    The special tokens are plain entries of the vocabulary, at 0 to 3, and not "added tokens" of the library: those are
    searched for in the text, so that an article which mentions "[EOS]" would end there. As entries they cannot arise
    from text, because both kinds part brackets from letters.

    Args:
        digits: spell numbers digit by digit: few tokens that are all known, in place of many rare ones.
        names: entries for names of several words, such as "Nueva York", the most frequent ones; 0: none. Fitting then
            holds the texts that it learns from in memory.

    Raises:
        SettingError: names under 0.
    """

    kind: ClassVar[str]
    """The name on the command line."""
    model: ClassVar[type[models.WordLevel] | type[models.BPE]]
    """The native model; its name in the JSON tells the kind."""
    smallest: ClassVar[int]
    """The least vocab_size that leaves a working tokenizer."""
    ends: bool = True
    """Whether a text ends in [EOS]: models of others may know no such token."""
    VERSION: ClassVar[int]
    """Raised when the same text would be fitted or encoded otherwise."""

    def __init__(self, digits: bool = False, names: int = 0) -> None:
        if names < 0:
            raise SettingError("names", names, "must be at least 0, such as 200")
        self.digits, self.names = digits, names
        _keep_forks_serial()
        self._native = self._pipeline(self.model(unk_token=SPECIAL_TOKENS[UNK]))
        self._remembered: _Remembered | None = None
        self._kept = False

    def kept(self) -> Self:
        """Return this tokenizer, which from now on `fit` leaves as it is: weights that exist know its vocabulary."""
        self._kept = True
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Another process remembers for itself.
        return {**self.__dict__, "_remembered": None, "_judged": None}

    @abstractmethod
    def _pipeline(self, model: models.Model, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        """Put the model between its pre-tokenizer and its decoder; the pre-tokenizer keeps the names whole."""

    @abstractmethod
    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        """Return what fits the model; it must break ties the same way on every run."""

    def fit(self, texts: Iterable[str], vocab_size: int) -> None:
        """Build the vocabulary; what was fitted before is forgotten.

        The same texts give the same vocabulary on every run, in whatever order they come.

        Args:
            texts: the texts to learn from, read once.
            vocab_size: entries at most, the four special tokens among them; text that supports fewer gives fewer.

        Raises:
            SettingError: vocab_size is too small.
            OutsideError: there is no text.
        """
        if self._kept:
            return
        self.check_size(vocab_size)
        written = (text for text in texts if text.strip())
        first = next(written, None)
        if first is None:
            raise OutsideError("no text to fit the tokenizer on: the training split has no article with text")
        self._native = self._trained(chain([first], written), vocab_size)

    def check_size(self, vocab_size: int) -> None:
        """Check that a vocabulary of this size can be fitted.

        Raises:
            SettingError: it is too small, or larger than any vocabulary.
        """
        if self._kept:
            if vocab_size != len(self):
                raise SettingError("vocab_size", vocab_size, f"the vocabulary is there already, and has {len(self)}")
            return
        if vocab_size < self.smallest:
            raise SettingError("vocab_size", vocab_size, f"tokenizer={self.kind} needs at least {self.smallest}")
        if vocab_size > LARGEST:
            raise SettingError("vocab_size", vocab_size, f"must be at most {LARGEST:,}: no text has so many words")

    def _trained(self, texts: Iterable[str], vocab_size: int, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        native = self._pipeline(self.model(unk_token=SPECIAL_TOKENS[UNK]), names)
        native.train_from_iterator(texts, self._trainer(vocab_size))
        # Training registers the special tokens as added tokens; only the model goes on, see the class docstring.
        return self._pipeline(native.model, names)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without [BOS] and [EOS].

        Raises:
            SettingError: it is not Unicode: it holds half of a surrogate pair.
        """
        with _refusing(text):
            return self._native.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode many texts at once, and count what the unknown tokens lose."""
        return [Encoded(ids.tolist(), unknown_bytes) for ids, unknown_bytes in map(self.encode_counting, texts)]

    def encode_counting(self, text: str) -> tuple[NDArray[np.int32], int]:
        """Return the ids of a text, without [BOS] and [EOS], and what its unknown tokens lose; see `Encoded`.

        The ids are the library's. It encodes a word each time that it comes; here each is encoded once and remembered,
        which takes a quarter of the time, and one core, so that several processes can share a corpus.

        Raises:
            SettingError: as in `encode`.
        """
        with _refusing(text):
            if not self._is_parted_plainly or _uncertain().search(text):
                return self._encode_whole(text)
            if self._remembered is None or self._remembered.native is not self._native:
                self._remembered = _Remembered(self._native, self._encode_piece)
            pieces = self._remembered.pattern.findall(text)
            ids = np.frombuffer(b"".join(map(self._remembered.__getitem__, pieces)), dtype=np.int32)
            return ids, self._unknown_bytes(pieces, ids)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that are not in the vocabulary, each once, in order; they become [UNK].

        Raises:
            SettingError: as in `encode`.
        """
        return list(dict.fromkeys(text[start:end].strip() for token, start, end in self.placed(text) if token == UNK))

    def placed(self, text: str) -> list[Placed]:
        """Return the tokens of a text, those of `encode`, with their places in it.

        Raises:
            SettingError: as in `encode`.
        """
        with _refusing(text):
            encoding = self._native.encode(text, add_special_tokens=False)
        return [Placed(token, start, end) for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]

    def unknown_cost(self, surface: str) -> int:
        """Return the bytes that an [UNK] pays for, in `Encoded.unknown_bytes`, given the text that it hides."""
        return len(surface.encode()) + 1

    @property
    def _is_parted_plainly(self) -> bool:
        """Whether the pre-tokenizer's pattern says all that happens before the model."""
        return True

    @abstractmethod
    def _encode_whole(self, text: str) -> tuple[NDArray[np.int32], int]:
        """Do what `encode_counting` does, by the library alone."""

    @abstractmethod
    def _encode_piece(self, piece: str) -> list[int]:
        """Return the ids of one piece that the pre-tokenizer parts a text into."""

    @abstractmethod
    def _unknown_bytes(self, pieces: list[str], ids: NDArray[np.int32]) -> int:
        """Return what the unknown tokens of a text lose."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids: [PAD], [BOS] and [EOS] are left out, an unknown token shows as [UNK]."""
        return self._native.decode([i for i in ids if i not in (PAD, BOS, EOS)])

    def token(self, token_id: int) -> str:
        """Return an entry as the vocabulary spells it.

        Raises:
            IndexError: there is no such id.
        """
        token = self._native.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise IndexError(f"token id {token_id} is outside a vocabulary of {len(self)}")
        return token

    def text(self, token_id: int) -> str:
        """Return an entry as it stands in a text; a special token by its name.

        Raises:
            IndexError: there is no such id.
        """
        return self.token(token_id)

    def __len__(self) -> int:
        return self._native.get_vocab_size()

    def describe(self) -> dict[str, Any]:
        """Return what decides how a text is encoded, apart from the fitted vocabulary, for fingerprints."""
        options: dict[str, Any] = {"digits": self.digits, "names": self.names}
        if self._kept:
            options["vocabulary"] = hashlib.sha256(self.to_json().encode()).hexdigest()
        return {"kind": self.kind, "version": self.VERSION, **{name: on for name, on in options.items() if on}}

    def to_json(self) -> str:
        """Return the whole tokenizer in the format of the tokenizers library."""
        return self._native.to_str()

    @classmethod
    def from_json(cls, json_text: str) -> Self:
        """Return the tokenizer that `to_json` wrote.

        Raises:
            OutsideError: the text is damaged, or not a tokenizer of this kind.
        """
        native = parse(json_text)
        if type(native.model) is not cls.model:
            raise OutsideError(f"not a {cls.kind} tokenizer: its model is {type(native.model).__name__}")
        if tuple(map(native.id_to_token, (PAD, UNK, BOS, EOS))) != SPECIAL_TOKENS:
            raise OutsideError(f"not a tokenizer of miniLLM: ids 0 to 3 are not {', '.join(SPECIAL_TOKENS)}")
        if set(native.get_vocab().values()) != set(range(native.get_vocab_size())):
            raise OutsideError("a damaged tokenizer: its ids have gaps")
        tokenizer = cls(**cls._options(native))
        tokenizer._native = native
        return tokenizer

    @classmethod
    @abstractmethod
    def _options(cls, native: tokenizers.Tokenizer) -> dict[str, Any]:
        """Return the arguments of the constructor that a fitted tokenizer was made with."""

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to a file, whole or not at all.

        Raises:
            OutsideError: the file cannot be written.
        """
        try:
            with written_whole(path) as temporary:
                temporary.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise OutsideError(f"cannot write the tokenizer {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the tokenizer that `save` wrote.

        Raises:
            OutsideError: the file is missing, damaged, or not a tokenizer of this kind.
        """
        try:
            json_text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise OutsideError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise OutsideError(f"cannot read the tokenizer {path}: it is not UTF-8") from error
        return cls.from_json(json_text)


def encoded_rows(tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[tuple[NDArray[np.int32], int]]:
    """Return what `Tokenizer.encode_counting` makes of the ``text`` of each row.

    It stands here, and not where it is used, for the processes that share the work: they load this module and no more.
    """
    return [tokenizer.encode_counting(row["text"]) for row in rows]


@contextmanager
def _refusing(text: str) -> Iterator[None]:
    """Make one line of what the library says of a text that is not Unicode."""
    try:
        yield
    except (TypeError, UnicodeEncodeError) as error:
        if not any("\ud800" <= character <= "\udfff" for character in text):
            raise
        raise SettingError("text", ascii(text), "is not Unicode: it holds half of a surrogate pair") from error


class _Remembered(dict[str, bytes]):
    """The ids of pieces of text, as the bytes of an int32 array.

    Args:
        native: what parts a text into pieces.
        encode: returns the ids of a piece.
    """

    def __init__(self, native: tokenizers.Tokenizer, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.native = native
        self.pattern = _compiled(_pattern(native))
        self._encode = encode

    def __missing__(self, piece: str) -> bytes:
        if len(self) >= REMEMBERED:
            self.clear()
        ids = self[piece] = np.array(self._encode(piece), dtype=np.int32).tobytes()
        return ids


@cache
def _uncertain() -> re.Pattern[str]:
    """Return what finds the characters that Unicode 3.2 did not have.

    Python and the tokenizers library know Unicode in different versions, and may part a text with a newer character
    otherwise. On the older ones they agree, but for four separators, which are no spaces for the library.
    """
    unknown = _ranges(n for n in range(0x10000) if unicodedata.ucd_3_2_0.category(chr(n)) == "Cn")
    return re.compile(f"[\\x1c-\\x1f{unknown}\\U00010000-\\U0010ffff]")


def _compiled(pattern: str) -> Any:
    """Return a pattern for texts without what `_uncertain` finds: of `re` where it knows all that is in it.

    It takes half the time of `regex`, but has no categories of characters: they are written out.
    """
    is_inside = False  # brackets

    def written(sign: re.Match[str]) -> str:
        nonlocal is_inside
        if sign[0] in "[]":
            is_inside = sign[0] == "["
        if sign[1] not in CATEGORIES:
            return sign[0]
        return _category(sign[1]) if is_inside else f"[{_category(sign[1])}]"

    spelled_out = re.sub(r"\\p\{(\w+)\}|\\.|[\[\]]", written, pattern)
    is_for_re = r"\p{" not in spelled_out and (HAS_POSSESSIVE_GROUPS or not re.search(r"\)[*+?]\+", spelled_out))
    return re.compile(spelled_out) if is_for_re else regex.compile(pattern)


@cache
def _category(name: str) -> str:
    """Return the characters of a category, as they stand within brackets."""
    return _ranges(n for n in range(0x10000) if unicodedata.category(chr(n)).startswith(name))


def _ranges(numbers: Iterable[int]) -> str:
    """Return characters as they stand within brackets.

    >>> _ranges([65, 66, 67, 97])
    '\\\\u0041-\\\\u0043\\\\u0061-\\\\u0061'

    Args:
        numbers: of the characters, ascending.
    """
    numbers = list(numbers)
    first = [n for n, before in zip(numbers, [-2, *numbers], strict=False) if n != before + 1]
    last = [n for n, after in zip(numbers, [*numbers[1:], -1], strict=True) if n != after - 1]
    return "".join(f"\\u{a:04x}-\\u{b:04x}" for a, b in zip(first, last, strict=True))


def _pattern(native: tokenizers.Tokenizer) -> str:
    """Return the pattern by which the pre-tokenizer parts a text."""
    pre_tokenizer = json.loads(native.to_str())["pre_tokenizer"]
    first = pre_tokenizer.get("pretokenizers", [pre_tokenizer])[0]
    return first["pattern"]["Regex"] if first["type"] == "Split" else GPT2_PIECES


def parted_by(native: tokenizers.Tokenizer, pattern: str) -> bool:
    """Return whether the pre-tokenizer's own pattern holds this one."""
    return json.dumps(pattern)[1:-1] in json.dumps(json.loads(native.to_str())["pre_tokenizer"])


def parse(json_text: str) -> tokenizers.Tokenizer:
    """Return the native tokenizer that a JSON describes.

    Raises:
        OutsideError: the library cannot read it.
    """
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises nothing more precise
        raise OutsideError(f"not a tokenizer, or a damaged one: {' '.join(str(error).split())}") from error


@cache  # once a process
def _keep_forks_serial() -> None:
    """Let forked processes encode on one thread.

    The library's thread pool does not survive a fork: it prints a warning in each child, or hangs where its environment
    variable asks for threads. So the variable says no while a fork takes place; the parent keeps its own value.
    """
    if sys.platform == "win32":
        return
    name = "TOKENIZERS_PARALLELISM"
    kept: list[str | None] = []

    def before() -> None:
        kept.append(os.environ.get(name))
        os.environ[name] = "false"

    def after() -> None:
        value = kept.pop()
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value

    os.register_at_fork(before=before, after_in_parent=after)
