"""Encoded documents and batches: from corpus and tokenizer to tensors."""

from minillm.data.augmentation import Augmentation
from minillm.data.batching import Batch
from minillm.data.curriculum import Curriculum
from minillm.data.datamodule import TextDataModule
from minillm.data.encoded import EncodedFile

__all__ = ["Augmentation", "Batch", "Curriculum", "EncodedFile", "TextDataModule"]
