"""Small models of other makes, as transformers saves them, with tokenizers of their own that know real text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from planted import texts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCABULARY = 400
PLACES = 64
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": PLACES,
}  # fmt: skip


def _saved(folder: Path, network: Callable[[int], Any], tokenizer: Any) -> Path:
    torch.manual_seed(0)
    network(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _fast(native: Tokenizer, trainer: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    native.train_from_iterator(texts()["train"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=native, **special)


def byte_level(*specials: str, **named: str) -> Any:
    """Byte-level BPE, as GPT-2, GPT-NeoX and Qwen have it."""
    native = Tokenizer(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(specials), initial_alphabet=alphabet)
    return _fast(native, trainer, **named)


def sentence_pieces() -> Any:
    """A unigram model with ▁ for spaces, as SentencePiece makes it for Llama."""
    native = Tokenizer(models.Unigram())
    native.normalizer = normalizers.NFKC()
    native.pre_tokenizer = pre_tokenizers.Metaspace()
    native.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    return _fast(native, trainer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_pieces() -> Any:
    """WordPiece between [CLS] and [SEP], as BERT has it."""
    native = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    native.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    native.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    native.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials)
    return _fast(native, trainer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def gpt2(folder: Path) -> Path:
    """GPT-2: one token begins a text, ends it, and is its [UNK] by name."""
    from transformers import GPT2Config, GPT2LMHeadModel

    end = "<|endoftext|>"
    tokenizer = byte_level(end, bos_token=end, eos_token=end, unk_token=end)
    return _saved(folder, lambda size: GPT2LMHeadModel(_gpt2_config(GPT2Config, size)), tokenizer)


def _gpt2_config(kind: Any, size: int) -> Any:
    return kind(vocab_size=size, n_positions=PLACES, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)


def llama(folder: Path) -> Path:
    """Llama: begins with <s>, ends with </s>, has an unknown token, and a larger vocabulary than its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def network(size: int) -> Any:
        return LlamaForCausalLM(LlamaConfig(vocab_size=size + 24, num_key_value_heads=1, **SIZES))

    return _saved(folder, network, sentence_pieces())


def qwen3(folder: Path) -> Path:
    """Qwen3: nothing begins a text; its end stands before it, as between the documents of its training."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_level("<|endoftext|>", "<|im_start|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    config = {"num_key_value_heads": 1, "head_dim": 16, **SIZES}
    return _saved(folder, lambda size: Qwen3ForCausalLM(Qwen3Config(vocab_size=size, **config)), tokenizer)


def gpt_neox(folder: Path) -> Path:
    """GPT-NeoX."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = byte_level("<|endoftext|>", "<|padding|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    return _saved(folder, lambda size: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=size, **SIZES)), tokenizer)


def bert(folder: Path, is_decoder: bool = True) -> Path:
    """BERT's network and WordPiece, as a decoder; or as it was, which sees all of a text."""
    from transformers import BertConfig, BertLMHeadModel

    config = {"is_decoder": is_decoder, **SIZES}
    return _saved(folder, lambda size: BertLMHeadModel(BertConfig(vocab_size=size, **config)), word_pieces())


def bare(folder: Path) -> Path:
    """GPT-2's network with a tokenizer that has no special token at all."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _saved(folder, lambda size: GPT2LMHeadModel(_gpt2_config(GPT2Config, size)), byte_level())


def slow(folder: Path) -> Path:
    """GPT-2's network with a tokenizer in Python: the bytes of the text."""
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = ByT5Tokenizer()
    return _saved(folder, lambda size: GPT2LMHeadModel(_gpt2_config(GPT2Config, size)), tokenizer)


FOREIGN: dict[str, Callable[[Path], Path]] = {
    each.__name__: each for each in (gpt2, llama, qwen3, gpt_neox, bert, bare, slow)
}
