"""Byte-level byte-pair encoding: no text is unknown."""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from minillm.tokenization.tokenizer import SPECIAL_TOKENS, Encoded, Tokenizer


class BPETokenizer(Tokenizer):
    """Byte-pair encoding over bytes; any string decodes to itself.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016), on the bytes of words, parted
    by the pattern of Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2, 2019).

    Ids: the special tokens, the 256 bytes, then the merges as they were learned, the most frequent pair first. So ids
    run by falling frequency only roughly: bytes come before all merges, and later merges use earlier ones up.

    The vocabulary spells bytes as GPT-2 does (`token` gives "Ġde" for " de"); `decode` gives text, with U+FFFD for
    bytes that are not yet a character.
    """

    kind = "bpe"
    model = models.BPE
    smallest = len(SPECIAL_TOKENS) + 256
    VERSION = 1

    def _pipeline(self, model: models.Model) -> tokenizers.Tokenizer:
        native = tokenizers.Tokenizer(model)
        native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        native.decoder = decoders.ByteLevel()
        return native

    def _trainer(self, vocab_size: int) -> trainers.Trainer:
        return trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode many texts at once, on all cores; no byte is unknown."""
        # The fast form leaves out the places in the text, which only unknown tokens would need.
        encodings = self._native.encode_batch_fast(texts, add_special_tokens=False)
        return [Encoded(encoding.ids, 0) for encoding in encodings]
