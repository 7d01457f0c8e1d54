"""The words of texts and their hashes, vectorized over many texts; worker processes only import this module."""

import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
SPACE = ord(" ")
MAX_VECTORIZED = 64  # bytes of a word; the few longer words are hashed one by one
CHUNK = 1 << 20  # characters of texts that are hashed together, which bounds the memory


class Words(NamedTuple):
    """The words of a text, in lower case.

    Attributes:
        spelled: the words in UTF-8, separated by spaces.
        hashes: (N,) uint64, the CRC-32 of each.
    """

    spelled: bytes
    hashes: NDArray[np.uint64]


def words_of(texts: Sequence[str]) -> Iterator[Words]:
    """Yield the words of each text.

    >>> [(words.spelled, len(words.hashes)) for words in words_of(["¡La Luna!", "..."])]
    [(b'la luna', 2), (b'', 0)]
    """
    spelled: list[bytes] = []
    size = 0
    for text in texts:
        if size and size + len(text) > CHUNK:
            yield from _hashed(spelled)
            spelled, size = [], 0
        spelled.append(_spelled(text.lower()))
        size += len(text)
    yield from _hashed(spelled)


def word_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    """Return the hash of each word, as in `Words`, (N,)."""
    return np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))


def _spelled(text: str) -> bytes:
    """Return the matches of `WORD`, separated by spaces."""
    codes = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    if (codes >> 11 == 0xD800 >> 11).any():  # surrogates: a character takes two codes
        return " ".join(WORD.findall(text)).encode()
    is_word = _in_words()[codes]
    is_kept = is_word.copy()  # and one character after each word
    is_kept[1:] |= is_word[:-1]
    codes = np.where(is_word, codes, np.uint16(SPACE))[is_kept]
    return codes.tobytes().decode("utf-16-le").rstrip(" ").encode()


@cache
def _in_words() -> NDArray[np.bool_]:
    """Return whether each character can be part of a word, (65536,)."""
    characters = "".join(map(chr, range(1 << 16)))
    in_words = np.zeros(1 << 16, dtype=bool)
    for run in WORD.finditer(characters):
        in_words[run.start() : run.end()] = True
    return in_words


def _hashed(spelled: list[bytes]) -> Iterator[Words]:
    hashes = _hashes(b" ".join(filter(None, spelled)))
    start = 0
    for words in spelled:
        end = start + (words.count(b" ") + 1 if words else 0)
        yield Words(words, hashes[start:end])
        start = end


def _hashes(spelled: bytes) -> NDArray[np.uint64]:
    """Return the hash of each word, computed byte by byte for all words together, sorted by length."""
    if not spelled:
        return np.zeros(0, dtype=np.uint64)
    signs = np.frombuffer(spelled + b" ", dtype=np.uint8)
    ends = np.flatnonzero(signs == SPACE)
    lengths = np.diff(ends, prepend=-1) - 1
    order = np.argsort(np.minimum(lengths, MAX_VECTORIZED + 1).astype(np.uint8), kind="stable")[::-1]
    lengths, begins = lengths[order], (ends - lengths)[order]
    states = np.full(len(ends), 0xFFFFFFFF, dtype=np.uint32)
    longer = np.searchsorted(-lengths, -np.arange(min(MAX_VECTORIZED, lengths[0])))  # number of words over n bytes
    for place, count in enumerate(longer.tolist()):
        state = states[:count]
        states[:count] = _crc_table()[(state ^ signs[begins[:count] + place]) & 0xFF] ^ (state >> 8)
    hashes = np.empty(len(ends), dtype=np.uint64)
    hashes[order] = ~states
    for number in range(int(np.count_nonzero(lengths > MAX_VECTORIZED))):
        begin = int(begins[number])
        hashes[order[number]] = zlib.crc32(spelled[begin : begin + int(lengths[number])])
    return hashes


@cache
def _crc_table() -> NDArray[np.uint32]:
    """Return the table of CRC-32, (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1)
    return table
