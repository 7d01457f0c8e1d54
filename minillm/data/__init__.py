"""Encoded datasets and batches: corpus and tokenizer in, tensors out."""

from minillm.data.augmentation import Augmentation
from minillm.data.batching import Batch
from minillm.data.curriculum import Curriculum
from minillm.data.datamodule import TextDataModule
from minillm.data.encoded import EncodedSplit

__all__ = ["Augmentation", "Batch", "Curriculum", "EncodedSplit", "TextDataModule"]
