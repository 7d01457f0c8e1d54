"""The text that a checkpoint is evaluated on: what it was trained and tested with, or other text."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from omegaconf import OmegaConf

from minillm.configuration import instantiate
from minillm.data import Batch, EncodedSplit, TextDataModule
from minillm.data.encoded import write_split
from minillm.errors import MiniLLMError, SettingError
from minillm.evaluation.subject import Split
from minillm.language_model import LanguageModel

log = logging.getLogger(__name__)


def splits_of(data: TextDataModule | None) -> dict[str, Split]:
    """Return the splits of prepared data that have articles."""
    documents = data.splits if data else {}
    return {
        name: Split(split, data.corpus.articles(name)["text"])
        for name, split in documents.items()
        if data and len(split)
    }


def loaders_of(data: TextDataModule | None) -> dict[str, Iterable[Batch]]:
    """Return the batches that training and its figures are computed on, by split."""
    if data is None:
        return {}
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    return {name: loader() for name, loader in loaders.items() if len(data.splits[name])}


def funnel_of(data: TextDataModule | None) -> dict[str, int]:
    """Return how many articles were read, dropped for each reason, and kept."""
    return dict(data.manifest["corpus"]["funnel"]) if data else {}


def training_data(model: LanguageModel, data_dir: str | Path) -> TextDataModule:
    """Return the data that a model was trained on, prepared again where the caches do not have it.

    Args:
        model: of a checkpoint.
        data_dir: folder of the caches.

    Raises:
        SettingError: the text is no longer what it was, or the config names classes that are not this project's.
        OutsideError: the text cannot be had.
    """
    nodes = {name: model.config.get(name, {}) for name in ("data", "tokenizer")}
    _check_targets(nodes)
    config = OmegaConf.create({**nodes, "data": {**nodes["data"], "data_dir": str(data_dir)}})
    data: TextDataModule = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"))
    data.prepare_data()
    data.setup()
    if data.tokenizer.to_json() != model.tokenizer.to_json():
        advice = (
            "has another vocabulary than its text gives today, which has changed since the training; "
            "name what to test it on: data=files data.source.path=..."
        )
        raise SettingError("ckpt", "its data", advice)
    return data


def training_data_if_at_hand(model: LanguageModel, data_dir: str | Path) -> TextDataModule | None:
    """Return `training_data`; None, with a warning, where it cannot be had."""
    try:
        return training_data(model, data_dir)
    except MiniLLMError as error:
        log.warning("the training text is not at hand, and what needs it is not checked: %s", error)
        return None


@contextmanager
def other_text(data: TextDataModule, model: LanguageModel) -> Iterator[Split]:
    """Yield all articles of a data choice as one split, in the tokens of a model.

    Args:
        data: names source and cleaning; its split, tokenizer and vocabulary do not matter.
        model: has the tokenizer.

    Raises:
        SettingError: it has no article.
    """
    corpus = replace(data.corpus, split=(1.0, 0.0, 0.0))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "test.arrow"
        articles = corpus.articles("train")
        write_split(path, articles, model.tokenizer)
        yield Split(EncodedSplit(path), articles["text"])


def _check_targets(node: Any) -> None:
    """Refuse classes that are not this project's: a checkpoint may come from anywhere, and must run nothing."""
    if isinstance(node, list):
        for child in node:
            _check_targets(child)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        target = node["_target_"]
        try:
            module = hydra.utils.get_class(target).__module__ if str(target).startswith("minillm.") else ""
        except (ImportError, ValueError):
            module = ""
        if not module.startswith("minillm."):
            advice = "is no class of miniLLM; name what to test the checkpoint on: data=files data.source.path=..."
            raise SettingError("data._target_", target, advice)
    for child in node.values():
        _check_targets(child)
