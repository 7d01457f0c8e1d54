"""The common interface of both tokenizers, around a native `tokenizers.Tokenizer`."""

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
MAX_VOCAB_SIZE = 10_000_000  # BPE allocates memory for all entries before it reads a text
# The pre-tokenization pattern of GPT-2, Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CATEGORIES = ("L", "Lu", "M", "N")  # Unicode categories in the tokenizers' patterns
# Earlier versions match possessive groups wrongly (https://github.com/python/cpython/issues/106052): on the word
# tokenizer's pattern `re` never ends.
HAS_POSSESSIVE_GROUPS = sys.version_info >= (3, 11, 5)
CACHE_SIZE = 1 << 16  # pieces of text with cached ids: about 10 MB


class Encoded(NamedTuple):
    """A text as ids, with the cost of its unknown words.

    Attributes:
        ids: one id per token, without [BOS] and [EOS].
        unknown_bytes: sum over the [UNK] tokens of (UTF-8 bytes of the surface form + 1). With 8 bits for each, this is
            the cost of spelling the words out, so that bits per byte is the length of a decodable code.
    """

    ids: list[int]
    unknown_bytes: int


class Placed(NamedTuple):
    """A token of a text, with its position.

    Attributes:
        id: of the token.
        start: index of its first character in the text. An implied space is in no token; the tokens of a character
            that takes several have the same position.
        end: index after its last character.
    """

    id: int
    start: int
    end: int


class Tokenizer(ABC):
    """Text to ids and back, with a vocabulary fitted on text.

    The special tokens are ordinary entries of the vocabulary, 0 to 3, and not "added tokens" of the library, which
    would be recognized in a text: an article that mentions "[EOS]" would end there. Ordinary entries cannot result from
    text, since both tokenizers separate brackets from letters.

    Args:
        digits: spell numbers digit by digit: few known tokens instead of many rare ones.
        names: number of entries for the most frequent names of several words, such as "Nueva York"; 0: none. Fitting
            then keeps the texts in memory.

    Raises:
        SettingError: names under 0.
    """

    kind: ClassVar[str]
    """The name on the command line."""
    model: ClassVar[type[models.WordLevel] | type[models.BPE]]
    """The native model; its name in the JSON determines the kind."""
    smallest: ClassVar[int]
    """The smallest vocab_size of a working tokenizer."""
    ends: bool = True
    """Whether a text ends with [EOS]; some models of others have no such token."""
    VERSION: ClassVar[int]
    """Increased when the same text is fitted or encoded differently."""

    def __init__(self, digits: bool = False, names: int = 0) -> None:
        if names < 0:
            raise SettingError("names", names, "must be at least 0, such as 200")
        self.digits, self.names = digits, names
        _keep_forks_serial()
        self._native = self._pipeline(self.model(unk_token=SPECIAL_TOKENS[UNK]))
        self._cache: _PieceCache | None = None
        self._kept = False

    def kept(self) -> Self:
        """Return this tokenizer after telling `fit` not to change it: existing weights use its vocabulary."""
        self._kept = True
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Another process builds its own caches.
        return {**self.__dict__, "_cache": None, "_checked": None}

    @abstractmethod
    def _pipeline(self, model: models.Model, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        """Return a native tokenizer of the model, with a pre-tokenizer that keeps names whole and a decoder."""

    @abstractmethod
    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        """Return the model's trainer, which must break ties in the same way on every run."""

    def fit(self, texts: Iterable[str], vocab_size: int) -> None:
        """Build the vocabulary, which replaces an earlier one.

        The same texts, in any order, always give the same vocabulary.

        Args:
            texts: the texts to learn from, read once.
            vocab_size: maximum number of entries, with the four special tokens; a short text gives fewer.

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
            SettingError: it is too small or too large.
        """
        if self._kept:
            if vocab_size != len(self):
                raise SettingError("vocab_size", vocab_size, f"the existing vocabulary has {len(self)} entries")
            return
        if vocab_size < self.smallest:
            raise SettingError("vocab_size", vocab_size, f"tokenizer={self.kind} needs at least {self.smallest}")
        if vocab_size > MAX_VOCAB_SIZE:
            raise SettingError("vocab_size", vocab_size, f"must be at most {MAX_VOCAB_SIZE:,}")

    def _trained(self, texts: Iterable[str], vocab_size: int, names: Sequence[str] = ()) -> tokenizers.Tokenizer:
        native = self._pipeline(self.model(unk_token=SPECIAL_TOKENS[UNK]), names)
        native.train_from_iterator(texts, self._trainer(vocab_size))
        # Training adds the special tokens as "added tokens"; keep only the model, see the class docstring.
        return self._pipeline(native.model, names)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without [BOS] and [EOS].

        Raises:
            SettingError: it is not Unicode: it has half of a surrogate pair.
        """
        with _refusing(text):
            return self._native.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode several texts, and count the cost of their unknown words."""
        return [Encoded(ids.tolist(), unknown_bytes) for ids, unknown_bytes in map(self.encode_counting, texts)]

    def encode_counting(self, text: str) -> tuple[NDArray[np.int32], int]:
        """Return the ids of a text, without [BOS] and [EOS], and the cost of its unknown words; see `Encoded`.

        The ids are equal to the library's, which encodes a word at each occurrence. Here the ids of words are cached,
        which takes a quarter of the time, on one core, so that several processes can share a corpus.

        Raises:
            SettingError: as in `encode`.
        """
        with _refusing(text):
            if not self._has_pattern_only or _uncertain().search(text):
                return self._encode_whole(text)
            if self._cache is None or self._cache.native is not self._native:
                self._cache = _PieceCache(self._native, self._encode_piece)
            pieces = self._cache.pattern.findall(text)
            ids = np.frombuffer(b"".join(map(self._cache.__getitem__, pieces)), dtype=np.int32)
            return ids, self._unknown_bytes(pieces, ids)

    def unknown_words(self, text: str) -> list[str]:
        """Return the distinct words of a text that are not in the vocabulary and become [UNK], in order.

        Raises:
            SettingError: as in `encode`.
        """
        return list(dict.fromkeys(text[start:end].strip() for token, start, end in self.placed(text) if token == UNK))

    def placed(self, text: str) -> list[Placed]:
        """Return the tokens of a text, as from `encode`, with their positions.

        Raises:
            SettingError: as in `encode`.
        """
        with _refusing(text):
            encoding = self._native.encode(text, add_special_tokens=False)
        return [Placed(token, start, end) for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]

    def unknown_cost(self, surface: str) -> int:
        """Return the cost of an [UNK] in `Encoded.unknown_bytes`, given the unknown word."""
        return len(surface.encode()) + 1

    @property
    def _has_pattern_only(self) -> bool:
        """Whether splitting by the pre-tokenizer's pattern is the only step before the model."""
        return True

    @abstractmethod
    def _encode_whole(self, text: str) -> tuple[NDArray[np.int32], int]:
        """Implement `encode_counting` by the library."""

    @abstractmethod
    def _encode_piece(self, piece: str) -> list[int]:
        """Return the ids of one piece of pre-tokenized text."""

    @abstractmethod
    def _unknown_bytes(self, pieces: list[str], ids: NDArray[np.int32]) -> int:
        """Return the cost of a text's unknown words."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without [PAD], [BOS] and [EOS]; an unknown word is shown as [UNK]."""
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
        """Return an entry as text; for a special token its name.

        Raises:
            IndexError: there is no such id.
        """
        return self.token(token_id)

    def __len__(self) -> int:
        return self._native.get_vocab_size()

    def describe(self) -> dict[str, Any]:
        """Return the options that determine how a text is encoded, without the fitted vocabulary, for fingerprints."""
        options: dict[str, Any] = {"digits": self.digits, "names": self.names}
        if self._kept:
            options["vocabulary"] = hashlib.sha256(self.to_json().encode()).hexdigest()
        return {"kind": self.kind, "version": self.VERSION, **{name: on for name, on in options.items() if on}}

    def to_json(self) -> str:
        """Return the whole tokenizer in the format of the tokenizers library."""
        return self._native.to_str()

    @classmethod
    def from_json(cls, json_text: str) -> Self:
        """Return the tokenizer of a JSON from `to_json`.

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
        """Return the constructor's arguments of a fitted tokenizer."""

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to a file, atomically.

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
        """Return the tokenizer of a file from `save`.

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
    """Apply `Tokenizer.encode_counting` to the ``text`` of each row.

    It is here so that worker processes only import this module.
    """
    return [tokenizer.encode_counting(row["text"]) for row in rows]


@contextmanager
def _refusing(text: str) -> Iterator[None]:
    """Turn the library's errors for a text that is not Unicode into a SettingError."""
    try:
        yield
    except (TypeError, UnicodeEncodeError) as error:
        if not any("\ud800" <= character <= "\udfff" for character in text):
            raise
        raise SettingError("text", ascii(text), "is not Unicode: it has half of a surrogate pair") from error


class _PieceCache(dict[str, bytes]):
    """A cache of the ids of pieces of text, as the bytes of an int32 array.

    Args:
        native: splits a text into pieces.
        encode: returns the ids of a piece.
    """

    def __init__(self, native: tokenizers.Tokenizer, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.native = native
        self.pattern = _compiled(_pattern(native))
        self._encode = encode

    def __missing__(self, piece: str) -> bytes:
        if len(self) >= CACHE_SIZE:
            self.clear()
        ids = self[piece] = np.array(self._encode(piece), dtype=np.int32).tobytes()
        return ids


@cache
def _uncertain() -> re.Pattern[str]:
    """Return a pattern for the characters that Python and the tokenizers library may classify differently.

    Their Unicode versions differ. They agree on the characters of Unicode 3.2, except for four separators, which are
    not spaces for the library.
    """
    unknown = _ranges(n for n in range(0x10000) if unicodedata.ucd_3_2_0.category(chr(n)) == "Cn")
    return re.compile(f"[\\x1c-\\x1f{unknown}\\U00010000-\\U0010ffff]")


def _compiled(pattern: str) -> Any:
    """Return a compiled pattern for texts that `_uncertain` does not match, by `re` if possible, otherwise by `regex`.

    `re` takes half the time of `regex`, but has no Unicode categories, so their characters are written out.
    """
    is_inside = False  # brackets

    def written(sign: re.Match[str]) -> str:
        nonlocal is_inside
        if sign[0] in "[]":
            is_inside = sign[0] == "["
        if sign[1] not in CATEGORIES:
            return sign[0]
        return _category(sign[1]) if is_inside else f"[{_category(sign[1])}]"

    expanded = re.sub(r"\\p\{(\w+)\}|\\.|[\[\]]", written, pattern)
    is_for_re = r"\p{" not in expanded and (HAS_POSSESSIVE_GROUPS or not re.search(r"\)[*+?]\+", expanded))
    return re.compile(expanded) if is_for_re else regex.compile(pattern)


@cache
def _category(name: str) -> str:
    """Return the characters of a Unicode category as ranges for a character class."""
    return _ranges(n for n in range(0x10000) if unicodedata.category(chr(n)).startswith(name))


def _ranges(numbers: Iterable[int]) -> str:
    """Return characters as ranges for a character class.

    >>> _ranges([65, 66, 67, 97])
    '\\\\u0041-\\\\u0043\\\\u0061-\\\\u0061'

    Args:
        numbers: code points, ascending.
    """
    numbers = list(numbers)
    first = [n for n, before in zip(numbers, [-2, *numbers], strict=False) if n != before + 1]
    last = [n for n, after in zip(numbers, [*numbers[1:], -1], strict=True) if n != after - 1]
    return "".join(f"\\u{a:04x}-\\u{b:04x}" for a, b in zip(first, last, strict=True))


def _pattern(native: tokenizers.Tokenizer) -> str:
    """Return the pre-tokenizer's pattern."""
    pre_tokenizer = json.loads(native.to_str())["pre_tokenizer"]
    first = pre_tokenizer.get("pretokenizers", [pre_tokenizer])[0]
    return first["pattern"]["Regex"] if first["type"] == "Split" else GPT2_PIECES


def splits_by(native: tokenizers.Tokenizer, pattern: str) -> bool:
    """Return whether the pre-tokenizer's pattern contains this one."""
    return json.dumps(pattern)[1:-1] in json.dumps(json.loads(native.to_str())["pre_tokenizer"])


def parse(json_text: str) -> tokenizers.Tokenizer:
    """Return the native tokenizer of a JSON.

    Raises:
        OutsideError: the library cannot read it.
    """
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises nothing more specific
        raise OutsideError(f"not a tokenizer, or a damaged one: {' '.join(str(error).split())}") from error


@cache  # once per process
def _keep_forks_serial() -> None:
    """Make forked processes encode on one thread.

    The library's thread pool does not survive a fork: a child prints a warning, or hangs if the environment variable
    requests threads. So the variable is false during a fork; the parent keeps its value.
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
