"""Tokenizers: a word tokenizer and a byte-level BPE tokenizer with one interface."""

from minillm.tokenization.bpe import BPETokenizer
from minillm.tokenization.loading import load_tokenizer
from minillm.tokenization.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Encoded, Placed, Tokenizer
from minillm.tokenization.word import WordTokenizer

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIAL_TOKENS",
    "UNK",
    "BPETokenizer",
    "Encoded",
    "Placed",
    "Tokenizer",
    "WordTokenizer",
    "load_tokenizer",
]
