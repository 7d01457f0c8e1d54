"""Encoded datasets and batches: corpus and tokenizer in, tensors out."""

from minillm.data.batching import Batch
from minillm.data.datamodule import TextDataModule
from minillm.data.encoded import EncodedSplit

__all__ = ["Batch", "EncodedSplit", "TextDataModule"]
