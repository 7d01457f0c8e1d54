"""From a source to batches: everything between raw articles and the network, behind Lightning's interface."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from minillm.corpus import SPLITS, Cleaner, Corpus, DuplicateFilter, QualityFilter, Source
from minillm.corpus.fingerprint import fingerprint
from minillm.data.augmentation import Augmentation, Augmented
from minillm.data.batching import (
    Batch,
    Documents,
    EvaluationBatches,
    PackedRows,
    ResumableLoader,
    TrainingBatches,
    Windows,
    evaluation_loader,
)
from minillm.data.curriculum import Curriculum, EasiestFirst, Pace, in_pieces, unigram_costs
from minillm.data.encoded import EncodedSplit, write_split
from minillm.errors import OutsideError, SettingError
from minillm.files import is_whole, locked, problem_of, written_whole
from minillm.parallel import cores
from minillm.tokenization import BPETokenizer, Tokenizer, load_tokenizer

# Raise it when the code changes what is written for the same input.
VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


class TextDataModule(L.LightningDataModule):
    """Stages 1 to 8: source, cleaning, quality, split, tokenizer, encoded dataset, batches.

    `prepare_data` does the work once and keeps it on disk under a fingerprint of all it depends on; `setup` only
    opens what is there. Training batches are filled as ``batching`` says; validation and test always read each
    article in windows of ``max_length``, so that figures compare whatever the training did.

    Args:
        source: where the articles come from.
        cleaning: what is taken out of their text.
        quality: which articles are not taken.
        duplicates: which articles count as repeated.
        tokenizer: an unfitted tokenizer; it is fitted on the training split.
        vocab_size: entries of its vocabulary, special tokens among them.
        max_length: longest window, in tokens.
        batch_size: windows (or packed rows) a batch and process.
        num_workers: processes that make batches, where the machine has cores to spare for them; 0: none.
        min_length: characters that an article must have after cleaning.
        num_articles: articles to ask the source for; None: all.
        split: shares of articles for training, validation and test; they sum to 1.
        batching: how training batches are filled: ``dynamic`` (windows) or ``packed``.
        data_dir: folder of the caches.
        seed: with the epoch it decides the order of the batches, and what augmentation and curriculum draw.
        augmentation: what is changed in the training split, anew each epoch; None: nothing.
        curriculum: what training begins with; None: everything.

    Raises:
        SettingError: a setting that cannot work.
    """

    def __init__(
        self,
        source: Source,
        cleaning: Cleaner,
        quality: QualityFilter,
        duplicates: DuplicateFilter,
        tokenizer: Tokenizer,
        vocab_size: int = 5000,
        max_length: int = 128,
        batch_size: int = 32,
        num_workers: int = 4,
        min_length: int = 500,
        num_articles: int | None = 1000,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        batching: Literal["dynamic", "packed"] = "dynamic",
        data_dir: str | Path = "outputs/data",
        seed: int = 0,
        augmentation: Augmentation | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__()
        tokenizer.check_size(vocab_size)
        if max_length < 2:
            raise SettingError("max_length", max_length, "leaves no context to predict from; 128 would do")
        if batch_size < 1:
            raise SettingError("batch_size", batch_size, "must be at least 1, such as 32")
        if num_workers < 0:
            raise SettingError("num_workers", num_workers, "must be at least 0")
        if batching not in ("dynamic", "packed"):
            raise SettingError("batching", batching, "must be dynamic or packed")
        augmentation = augmentation or Augmentation()
        if augmentation.bpe_dropout > 0 and not isinstance(tokenizer, BPETokenizer):
            advice = f"tokenizer={tokenizer.kind} has no merges to leave out; use tokenizer=bpe"
            raise SettingError("data.augmentation.bpe_dropout", augmentation.bpe_dropout, advice)
        self.corpus = Corpus(
            source=source,
            cleaner=cleaning,
            quality=quality,
            duplicates=duplicates,
            min_length=min_length,
            num_articles=num_articles,
            split=tuple(split),
            data_dir=Path(data_dir),
        )
        if not all(self.corpus.split):
            raise SettingError("split", list(split), "leaves val or test without articles; [0.7,0.15,0.15] would do")
        self.unfitted_tokenizer = tokenizer
        self.vocab_size, self.max_length = vocab_size, max_length
        self.batch_size, self.num_workers = batch_size, min(num_workers, spare_cores())
        self.batching, self.data_dir, self.seed = batching, Path(data_dir), seed
        self.augmentation, self.curriculum = augmentation, curriculum or Curriculum()
        self.tokenizer: Tokenizer
        self.manifest: dict[str, Any]
        self.splits: dict[str, EncodedSplit] = {}
        self._train_loader: ResumableLoader
        self._train_loader_state: dict[str, int] | None = None

    def prepare_data(self) -> None:
        """Do stages 1 to 7, unless they were done for the same settings: same fingerprint, no work.

        Several processes may call it at once: one works, the others wait. What was done and is damaged is done again.

        Raises:
            SettingError: it has to be done, and nothing can be written to ``data_dir``; see also `Corpus`.
            OutsideError: a fault of the disk; see also `Corpus`.
        """
        self.corpus.prepare()
        try:
            lock = locked(self.folder)
        except OSError as error:
            if is_whole(self.folder):
                return
            advice = f"cannot be written: {problem_of(error)}"
            raise SettingError("paths.data_dir", self.data_dir, advice) from error
        with lock:
            if not is_whole(self.folder):
                try:
                    self._encode()
                except OSError as error:
                    raise OutsideError(f"{self.folder}: cannot be written ({problem_of(error)})") from error

    @property
    def folder(self) -> Path:
        """Where the encoded dataset lies; known once the corpus is prepared."""
        made_from = {
            "version": VERSION,
            "corpus": self.corpus.fingerprint,
            "tokenizer": self.unfitted_tokenizer.describe(),
            "vocab_size": self.vocab_size,
        }
        return self.data_dir / "encoded" / fingerprint(made_from)

    def _encode(self) -> None:
        """Fit the tokenizer on the training split, encode all three, and write them with their manifest."""
        self.unfitted_tokenizer.fit((row["text"] for row in self.corpus.articles("train")), self.vocab_size)
        with written_whole(self.folder, folder=True) as folder:
            counts = {}
            for name in SPLITS:
                path = folder / f"{name}.arrow"
                write_split(path, self.corpus.articles(name), self.unfitted_tokenizer)
                counts[name] = EncodedSplit(path).describe()
            self.unfitted_tokenizer.save(folder / TOKENIZER)
            manifest = {
                "version": VERSION,
                "fingerprint": self.folder.name,
                "tokenizer": {**self.unfitted_tokenizer.describe(), "vocab_size": len(self.unfitted_tokenizer)},
                "splits": counts,
                "corpus": self.corpus.manifest,
            }
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` left on disk."""
        if self.splits:
            return
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.tokenizer = load_tokenizer((self.folder / TOKENIZER).read_text(encoding="utf-8"))
        self.splits = {name: EncodedSplit(self.folder / f"{name}.arrow") for name in SPLITS}

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches, resumable in the middle of an epoch."""
        split = self.splits["train"]
        cut: Callable[[Documents], Windows | PackedRows] = partial(Windows, max_length=self.max_length)
        if self.batching == "packed":
            cut = partial(PackedRows, max_length=self.max_length, seed=self.seed)
        dataset: Windows | PackedRows | Augmented = cut(split)
        if self.augmentation.is_on:
            texts = self.corpus.articles("train")["text"]
            dataset = Augmented(split, texts, self.tokenizer, self.augmentation, cut, self.seed)
        batches = TrainingBatches(dataset.lengths, self.batch_size, self.seed, *self._share())
        change: Callable[[Batch, int, int], Batch] | None = None
        if self.curriculum.by:
            pace = Pace(self.curriculum, *self._training_batches(len(batches)))
            if self.curriculum.by == "length":
                change = partial(_shortened, pace=pace, max_length=self.max_length)
            else:
                costs = unigram_costs(split, len(self.tokenizer))
                batches = EasiestFirst(
                    partial(dataset.mean, costs), pace, dataset.lengths, self.batch_size, self.seed, *self._share()
                )
        if not len(batches):
            raise SettingError(
                "data.batch_size",
                self.batch_size,
                f"the {len(dataset)} training windows fill no batch for each process",
            )
        self._train_loader = ResumableLoader(dataset, batches, change, **self._loader_options())
        if self._train_loader_state is not None:
            self._train_loader.load_state_dict(self._train_loader_state)
            self._train_loader_state = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Return where the training batches stand, for the checkpoint."""
        return {"train_loader": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the training batches go on from where a checkpoint left them.

        Lightning has a state of the loader of its own, but loads it only into one that is made afterwards, and the
        schedule's length makes it before.
        """
        self._train_loader_state = state_dict["train_loader"]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation split in windows, each token once."""
        return self._evaluation_dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test split in windows, each token once."""
        return self._evaluation_dataloader("test")

    def _evaluation_dataloader(self, name: str) -> DataLoader[Batch]:
        dataset = Windows(self.splits[name], self.max_length)
        batches = EvaluationBatches(dataset.lengths, self.batch_size, *self._share())
        return evaluation_loader(dataset, batches, **self._loader_options())

    def _training_batches(self, per_epoch: int) -> tuple[int, int | None]:
        """Return how many batches an epoch and the whole training have, the latter None where it has no end.

        Without a trainer, an epoch is the whole training.
        """
        trainer = self.trainer
        if trainer is None:
            return per_epoch, per_epoch
        limit = trainer.limit_train_batches
        per_epoch = min(per_epoch, limit) if isinstance(limit, int) else int(per_epoch * limit)
        ends = [per_epoch * trainer.max_epochs] if trainer.max_epochs not in (None, -1) else []
        ends += [trainer.max_steps * trainer.accumulate_grad_batches] if trainer.max_steps != -1 else []
        return per_epoch, min(ends, default=None)

    def _share(self) -> tuple[int, int]:
        """Return this process's number and how many share the work."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
            # A generator of its own: an iterator draws a seed from it, and the global one belongs to the network.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def _shortened(batch: Batch, epoch: int, number: int, pace: Pace, max_length: int) -> Batch:
    return in_pieces(batch, max(2, round(pace.share(epoch, number) * max_length)))


def spare_cores() -> int:
    """Return how many cores the training itself does not need, for processes that make batches."""
    return max(0, cores() - 2)
