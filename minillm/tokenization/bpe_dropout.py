"""BPE-dropout: random tokenizations of the same text."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from minillm.tokenization.bpe import BPETokenizer

NONE = np.iinfo(np.int32).max
MAX_WORD_BYTES = 64  # a longer word is merged in parts, since the time grows with the square of the length


class BPEDropout:
    """Encodes with randomly skipped merges (Provilkov et al., "BPE-Dropout", 2020).

    At every step each possible merge is skipped with a probability; of the others, the one learned first is applied. A
    word is complete when no merge is left. Each word of the text is drawn separately. Probability 0 is ordinary
    encoding, 1 spells bytes.

    The tokenizers library can do this, too, but its generator cannot be seeded, so no training could be repeated or
    resumed. This class takes a generator as an argument, and processes all words of the same length together.

    Words of more than `MAX_WORD_BYTES` bytes are merged in parts, cut between two tokens of their ordinary encoding.

    Args:
        tokenizer: a fitted tokenizer.
        probability: of skipping a merge, from 0 to 1.
    """

    def __init__(self, tokenizer: BPETokenizer, probability: float) -> None:
        self.probability = probability
        native = tokenizer._native
        self._pre_tokenize, self._model = native.pre_tokenizer.pre_tokenize_str, native.model
        state = json.loads(native.to_str())["model"]
        vocab, merges = state["vocab"], state["merges"]
        self._size = len(vocab)
        self._characters = np.zeros(1 + max(ord(token) for token in vocab if len(token) == 1), dtype=np.int32)
        for token, token_id in vocab.items():
            if len(token) == 1:
                self._characters[ord(token)] = token_id
        # The sorted pairs, for binary search, with ranks and results. The last one is a sentinel.
        pairs = np.array([vocab[a] * self._size + vocab[b] for a, b in merges] + [self._size**2], dtype=np.int64)
        order = np.argsort(pairs, kind="stable")
        self._pairs, self._ranks = pairs[order], np.append(np.arange(len(merges)), NONE)[order].astype(np.int32)
        self._results = np.array([vocab[a + b] for a, b in merges], dtype=np.int32)

    def encode_batch(self, texts: Sequence[str], random: np.random.Generator) -> list[NDArray[np.int32]]:
        """Return the ids of each text, without [BOS] and [EOS].

        Args:
            texts: the texts.
            random: the generator that decides which merges to skip.
        """
        kinds: dict[str, int] = {}  # distinct words
        words = [[kinds.setdefault(word, len(kinds)) for word in self._words(text)] for text in texts]
        kind = np.array([word for text in words for word in text], dtype=np.int64)
        if not len(kind):
            return [np.zeros(0, dtype=np.int32) for _ in texts]
        spelled = self._characters[np.frombuffer("".join(kinds).encode("utf-32-le"), dtype=np.uint32)]
        lengths = np.array([len(word) for word in kinds])
        starts = np.cumsum(lengths) - lengths

        # Every word gets a row of the width of its bytes, with its tokens at the left and NONE after them.
        width = lengths[kind]
        begin = np.cumsum(width) - width
        pieces = np.full(width.sum(), NONE, dtype=np.int32)
        for length in np.unique(width):
            rows = np.flatnonzero(width == length)
            tokens = spelled[starts[kind[rows], None] + np.arange(length)]
            self._merge(tokens, random, pieces, begin[rows])
        ends = np.append(begin, len(pieces))[np.cumsum([len(text) for text in words])]
        return [text[text != NONE] for text in np.split(pieces, ends[:-1])]

    def _words(self, text: str) -> Iterator[str]:
        for word, _ in self._pre_tokenize(text):
            if len(word) <= MAX_WORD_BYTES:
                yield word
                continue
            part = ""
            for token in self._model.tokenize(word):
                if len(part) + len(token.value) > MAX_WORD_BYTES and part:
                    yield part
                    part = ""
                part += token.value
            yield part

    def _merge(
        self,
        tokens: NDArray[np.int32],
        random: np.random.Generator,
        pieces: NDArray[np.int32],
        begin: NDArray[np.int64],
    ) -> None:
        """Merge words of one length, and write their tokens.

        Args:
            tokens: (W, L), the bytes of each word.
            random: the generator that decides which merges to skip.
            pieces: the array to write to.
            begin: (W,), the index of each word's first token in it.
        """
        ranks = self._rank(tokens[:, :-1], tokens[:, 1:])  # (W, L - 1)
        while True:
            width = tokens.shape[1]
            offered = ranks
            if self.probability > 0 and width > 1:
                skipped = random.random(ranks.shape, dtype=np.float32) < self.probability
                offered = np.where(skipped, NONE, ranks)
            rank = offered.min(axis=1, initial=NONE)
            done = rank == NONE
            if done.any():
                pieces[begin[done, None] + np.arange(width)] = tokens[done]
                going = ~done
                if not going.any():
                    return
                tokens, ranks, begin, rank, offered = (array[going] for array in (tokens, ranks, begin, rank, offered))
            # Each row loses the column after its merge, so all rows keep the same width.
            place = offered.argmin(axis=1)
            row = np.arange(len(tokens))
            tokens[row, place] = self._results[rank]
            tokens = _without(tokens, place + 1)
            ranks = _without(ranks, place)
            left, right = np.maximum(place - 1, 0), np.minimum(place + 1, width - 2)
            if width > 2:
                before, after = place > 0, place < width - 2
                ranks[row[before], left[before]] = self._rank(
                    tokens[row[before], left[before]], tokens[row[before], place[before]]
                )
                ranks[row[after], place[after]] = self._rank(
                    tokens[row[after], place[after]], tokens[row[after], right[after]]
                )

    def _rank(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rank of each pair's merge, NONE if there is no such merge."""
        pairs = first.astype(np.int64) * self._size + second
        found = np.searchsorted(self._pairs, pairs)
        return np.where(self._pairs[found] == pairs, self._ranks[found], NONE)


def _without(array: NDArray[np.int32], place: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return an array (W, L) without one column per row, (W, L - 1)."""
    kept = np.arange(array.shape[1]) != place[:, None]
    return array[kept].reshape(len(array), -1)
