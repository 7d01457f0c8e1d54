"""The LightningDataModule: from a source of articles to batches."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from minillm.clock import clock_of
from minillm.corpus import SPLITS, Cleaner, Corpus, DuplicateFilter, QualityFilter, Source
from minillm.corpus.fingerprint import fingerprint, libraries
from minillm.corpus.split import uniform
from minillm.data.augmentation import Augmentation, Augmented
from minillm.data.batching import (
    Batch,
    EncodedDocuments,
    EvaluationBatches,
    PackedRows,
    ResumableLoader,
    TrainingBatches,
    Windows,
    begin_worker,
    evaluation_loader,
)
from minillm.data.curriculum import Curriculum, EasiestFirst, Pace, in_pieces, unigram_costs
from minillm.data.encoded import EncodedFile, encode_range, join_pieces, ranges, write_split
from minillm.data.subset import bounded
from minillm.engines import Engine, Task
from minillm.errors import OutsideError, SettingError
from minillm.files import is_whole, locked, problem_of, written_whole
from minillm.memory import MAX_LENGTH
from minillm.parallel import cores, processes_for
from minillm.tokenization import BPETokenizer, Tokenizer, load_tokenizer

# Increase it when the code writes something else for the same input.
VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MAX_BATCH = 2**22  # tokens: more than GPT-3's 3.2 million, and gigabytes for each layer of the smallest network


class TextDataModule(L.LightningDataModule):
    """All stages of the data: source, cleaning, quality, split, tokenizer, encoded documents, batches.

    `prepare_data` does the work once and stores it under a fingerprint of everything it depends on; `setup` only opens
    it. ``batching`` applies to training; validation and test always read each article in windows of ``max_length``, so
    that metrics are comparable between runs.

    Args:
        source: of the articles.
        cleaning: cleans their text.
        quality: filters articles by quality.
        duplicates: filters repeated articles.
        tokenizer: an unfitted tokenizer; it is fitted on the training split.
        vocab_size: entries of the vocabulary, with the special tokens.
        fit_characters: approximate number of characters to fit the tokenizer on, which bounds time and memory; of a
            larger training split, it uses the articles with the smallest hashes of their page ids.
        max_length: tokens of a window, at most.
        batch_size: windows (or packed rows) per batch and process.
        num_workers: worker processes that make batches, at most as many as there are spare cores; 0: none.
        min_length: minimum characters of an article after cleaning.
        num_articles: articles to request from the source; None: all.
        split: shares of articles for training, validation and test; their sum is 1.
        batching: of training: ``dynamic`` (windows) or ``packed``.
        data_dir: folder of the caches.
        seed: seed and epoch determine the order of the batches and the draws of augmentation and curriculum.
        max_val_tokens: tokens of the validation split to use, of the articles with the smallest hashes, see
            `minillm.data.subset`; None: all.
        max_test_tokens: the same for the test split.
        augmentation: random changes of the training split; None: none.
        curriculum: the data that training starts with; None: all.
        prepared: fingerprint of a corpus that is already prepared, see `minillm.corpus.Corpus`.
        engine: where to prepare data; None: on this machine.

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
        fit_characters: int = 20_000_000,
        max_length: int = 128,
        batch_size: int = 32,
        num_workers: int = 4,
        min_length: int = 500,
        num_articles: int | None = 1000,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        batching: Literal["dynamic", "packed"] = "dynamic",
        data_dir: str | Path = "outputs/data",
        seed: int = 0,
        max_val_tokens: int | None = 500_000,
        max_test_tokens: int | None = 2_000_000,
        augmentation: Augmentation | None = None,
        curriculum: Curriculum | None = None,
        prepared: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        tokenizer.check_size(vocab_size)
        if fit_characters < 1:
            raise SettingError("fit_characters", fit_characters, "must be at least 1, such as 20000000")
        if max_length < 2:
            raise SettingError("max_length", max_length, "must be at least 2, such as 128")
        if max_length > MAX_LENGTH:
            advice = f"must be at most {MAX_LENGTH:,}: time and memory of attention grow with the square"
            raise SettingError("max_length", max_length, advice)
        if batch_size < 1:
            raise SettingError("batch_size", batch_size, "must be at least 1, such as 32")
        if batch_size * max_length > MAX_BATCH:
            advice = f"times max_length={max_length} is more than {MAX_BATCH:,} tokens per batch"
            raise SettingError("batch_size", batch_size, f"{advice}; {MAX_BATCH // max_length} at most")
        if num_workers < 0:
            raise SettingError("num_workers", num_workers, "must be at least 0")
        if batching not in ("dynamic", "packed"):
            raise SettingError("batching", batching, "must be dynamic or packed")
        for name, tokens in ("max_val_tokens", max_val_tokens), ("max_test_tokens", max_test_tokens):
            if tokens is not None and tokens < 1:
                raise SettingError(name, tokens, "must be at least 1, such as 500000, or null for the whole split")
        augmentation = augmentation or Augmentation()
        if augmentation.bpe_dropout > 0 and not isinstance(tokenizer, BPETokenizer):
            advice = f"tokenizer={tokenizer.kind} has no merges to skip; use tokenizer=bpe"
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
            prepared=prepared,
            engine=engine,
        )
        self.engine = engine
        if not all(self.corpus.split):
            raise SettingError("split", list(split), "leaves val or test without articles; [0.7,0.15,0.15] would do")
        self.unfitted_tokenizer = tokenizer
        self.vocab_size, self.fit_characters, self.max_length = vocab_size, fit_characters, max_length
        self.batch_size, self.num_workers = batch_size, min(num_workers, spare_cores())
        self.batching, self.data_dir, self.seed = batching, Path(data_dir), seed
        self.max_val_tokens, self.max_test_tokens = max_val_tokens, max_test_tokens
        self.augmentation, self.curriculum = augmentation, curriculum or Curriculum()
        self.tokenizer: Tokenizer
        self.manifest: dict[str, Any]
        self.splits: dict[str, EncodedFile] = {}

    def prepare_data(self) -> None:
        """Prepare corpus, tokenizer and encoded documents, unless they exist for the same settings.

        Several processes can call it at the same time: one works, the others wait. Damaged files are made again.

        Raises:
            SettingError: ``data_dir`` cannot be written; see also `Corpus`.
            OutsideError: the disk fails; see also `Corpus`.
        """
        self.corpus.prepare()
        if self.corpus.prepared is not None and is_whole(self.folder):
            return  # another process has prepared it: no lock needed
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

    def prepare(self) -> str:
        """Call `prepare_data`; return the fingerprint of the corpus, for `follow` in other processes."""
        self.prepare_data()
        return self.corpus.fingerprint

    def follow(self, fingerprint: str) -> None:
        """Use a corpus that another process has prepared, without reading its raw articles.

        Args:
            fingerprint: of the corpus.
        """
        self.corpus = replace(self.corpus, prepared=fingerprint)

    @property
    def folder(self) -> Path:
        """Folder of the encoded documents; known once the corpus is prepared."""
        made_from = {
            "version": VERSION,
            "corpus": self.corpus.fingerprint,
            "tokenizer": self.unfitted_tokenizer.describe(),
            "vocab_size": self.vocab_size,
            "libraries": libraries("tokenizer"),
        }
        if self._fitted_share < 1:
            made_from["fit_characters"] = self.fit_characters
        return self.data_dir / "encoded" / fingerprint(made_from)

    def _encode(self) -> None:
        """Fit the tokenizer on the training split, encode all splits, and write them with a manifest."""
        if self.engine and self.engine.tasks:
            self._encode_in_tasks(self.engine)
            return
        self.unfitted_tokenizer.fit(self._texts_to_fit(), self.vocab_size)
        with written_whole(self.folder, folder=True) as folder:
            counts = {}
            for name in SPLITS:
                size = self.corpus.manifest["splits"][name]["bytes"]
                articles = self._articles(name, "page_id", "text")
                counts[name] = write_split(
                    folder / f"{name}.arrow", articles, self.unfitted_tokenizer, processes=processes_for(size)
                )
            self._describe(folder, counts)

    def _encode_in_tasks(self, engine: Engine) -> None:
        """Do the work of `_encode` with an engine; tasks that an interrupted run finished are not repeated."""
        work = (self.data_dir / "work" / self.folder.name).absolute()
        work.mkdir(parents=True, exist_ok=True)
        fitted = work / TOKENIZER
        if not fitted.exists():
            self.unfitted_tokenizer.fit(self._texts_to_fit(), self.vocab_size)
            with written_whole(fitted) as file:
                self.unfitted_tokenizer.save(file)
        self.unfitted_tokenizer = load_tokenizer(fitted.read_text(encoding="utf-8"))
        corpus = self.corpus.prepare().absolute()
        total = sum(self.corpus.manifest["splits"][name]["articles"] for name in SPLITS)
        tasks: dict[str, list[Task]] = {}
        for name in SPLITS:
            articles = self.corpus.manifest["splits"][name]["articles"]
            tasks[name] = [
                Task(
                    partial(encode_range, corpus / f"{name}.arrow", start, stop, fitted),
                    work / f"{name}-{start}-{stop}",
                )
                for start, stop in ranges(articles, total, engine.tasks or 1)
            ]
        engine.run([task for name in SPLITS for task in tasks[name]], work, "encoding articles")
        with written_whole(self.folder, folder=True) as folder:
            counts = {
                name: join_pieces([task.result for task in tasks[name]], folder / f"{name}.arrow") for name in SPLITS
            }
            self._describe(folder, counts)
        shutil.rmtree(work, ignore_errors=True)

    def _describe(self, folder: Path, counts: dict[str, dict[str, int | float]]) -> None:
        """Write the tokenizer and the manifest."""
        self.unfitted_tokenizer.save(folder / TOKENIZER)
        manifest = {
            "version": VERSION,
            "fingerprint": self.folder.name,
            "tokenizer": {**self.unfitted_tokenizer.describe(), "vocab_size": len(self.unfitted_tokenizer)},
            "splits": counts,
            "fitted_share": self._fitted_share,
            "libraries": libraries("tokenizer"),
            "corpus": self.corpus.manifest,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")

    def _articles(self, split: str, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield the articles of a split as rows, without keeping them in memory."""
        for batch in self.corpus.batches(split, *columns):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    def _texts_to_fit(self) -> Iterator[str]:
        """Yield the texts to fit the tokenizer on; of a large training split those with the smallest hashes."""
        share = self._fitted_share
        for row in self._articles("train", "page_id", "text"):
            if share >= 1 or uniform("fit", row["page_id"]) < share:
                yield row["text"]

    @property
    def _fitted_share(self) -> float:
        """The share of the training split that the tokenizer is fitted on."""
        return min(1.0, self.fit_characters / max(1, self.corpus.manifest["splits"]["train"]["characters"]))

    def setup(self, stage: str | None = None) -> None:
        """Open the files of `prepare_data`."""
        if self.splits:
            return
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.tokenizer = load_tokenizer((self.folder / TOKENIZER).read_text(encoding="utf-8"))
        self.splits = {name: EncodedFile(self.folder / f"{name}.arrow") for name in SPLITS}

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of training batches, which can resume in the middle of an epoch."""
        split = self.splits["train"]
        cut: Callable[[EncodedDocuments], Windows | PackedRows] = partial(Windows, max_length=self.max_length)
        if self.batching == "packed":
            cut = partial(PackedRows, max_length=self.max_length, seed=self.seed)
        dataset: Windows | PackedRows | Augmented = cut(split)
        if self.augmentation.is_on:
            texts = self.corpus.articles("train")["text"]
            folder = self.folder.parent if os.access(self.folder.parent, os.W_OK) else None
            dataset = Augmented(split, texts, self.tokenizer, self.augmentation, cut, self.seed, folder)
        batches = TrainingBatches(dataset.lengths, self.batch_size, self.seed, *self._share())
        change: Callable[[Batch, int, int], Batch] | None = None
        if self.curriculum.by:
            clock = clock_of(self.trainer) if self.trainer else None
            done = clock.share if clock is not None and clock.is_limited else None
            pace = Pace(self.curriculum, *self._training_batches(len(batches)), done)
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
                f"the {len(dataset)} training windows are not enough for a batch per process",
            )
        return ResumableLoader(dataset, batches, change, self._batches_done, **self._loader_options())

    def state_dict(self) -> dict[str, Any]:
        """Return the fingerprint of the corpus, for the checkpoint."""
        return {"corpus": self.corpus.fingerprint}

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the validation split, of up to ``max_val_tokens``: windows, each token once."""
        return self._evaluation_dataloader("val", self.max_val_tokens)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the test split, of up to ``max_test_tokens``: windows, each token once."""
        return self._evaluation_dataloader("test", self.max_test_tokens)

    def _evaluation_dataloader(self, name: str, max_tokens: int | None) -> DataLoader[Batch]:
        dataset = Windows(bounded(self.splits[name], max_tokens), self.max_length)
        batches = EvaluationBatches(dataset.lengths, self.batch_size, *self._share())
        return evaluation_loader(dataset, batches, **self._loader_options())

    def _training_batches(self, per_epoch: int) -> tuple[int, int | None]:
        """Return the numbers of batches of an epoch and of the whole training; None if the latter has no end.

        Without a trainer, the training is one epoch.
        """
        trainer = self.trainer
        if trainer is None:
            return per_epoch, per_epoch
        limit = trainer.limit_train_batches
        per_epoch = min(per_epoch, limit) if isinstance(limit, int) else int(per_epoch * limit)
        ends = [per_epoch * trainer.max_epochs] if trainer.max_epochs not in (None, -1) else []
        ends += [trainer.max_steps * trainer.accumulate_grad_batches] if trainer.max_steps != -1 else []
        return per_epoch, min(ends, default=None)

    def _batches_done(self) -> int:
        """Return the number of batches of its epoch that training has seen; a resume restores the trainer's count."""
        trainer = self.trainer
        return trainer.fit_loop.batch_idx + 1 if trainer and trainer.training else 0

    def _share(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "worker_init_fn": begin_worker,
            "pin_memory": torch.cuda.is_available(),
            # Each iterator draws a seed; with its own generator that does not change the network's random numbers.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def _shortened(batch: Batch, epoch: int, number: int, pace: Pace, max_length: int) -> Batch:
    return in_pieces(batch, max(2, round(pace.share(epoch, number) * max_length)))


def spare_cores() -> int:
    """Return the number of cores that training does not use, for worker processes."""
    return max(0, cores() - 2)
