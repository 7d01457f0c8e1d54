"""The text to evaluate a checkpoint on: that of its training, or other text."""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from minillm.command import named
from minillm.corpus.fingerprint import is_fingerprint
from minillm.data import Batch, EncodedFile, TextDataModule
from minillm.data.encoded import write_split
from minillm.errors import MiniLLMError, SettingError
from minillm.evaluation.subject import Split
from minillm.language_model import LanguageModel
from minillm.tokenization import load_tokenizer
from minillm.trust import build, data_classes

log = logging.getLogger(__name__)

SAMPLE = "minillm.corpus.SampleSource"
NAME_IT = "name what to test it on: data=files data.source.path=..."


def splits_of(data: TextDataModule | None) -> dict[str, Split]:
    """Return the splits of prepared data that have articles."""
    documents = data.splits if data else {}
    return {
        name: Split(split, data.corpus.articles(name)["text"])
        for name, split in documents.items()
        if data and len(split)
    }


def loaders_of(data: TextDataModule | None) -> dict[str, Iterable[Batch]]:
    """Return the batches of training, validation and test, by split."""
    if data is None:
        return {}
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    return {name: loader() for name, loader in loaders.items() if len(data.splits[name])}


def funnel_of(data: TextDataModule | None) -> dict[str, int]:
    """Return the numbers of articles read, dropped for each reason, and kept."""
    return dict(data.manifest["corpus"]["funnel"]) if data else {}


def training_data(model: LanguageModel, data_dir: str | Path, trusted: Collection[str] = ()) -> TextDataModule:
    """Return the data that a model was trained on, as it was prepared then.

    An untrusted checkpoint must not make this program read other files or URLs, so its source is not used. The prepared
    corpus is taken from the caches by its fingerprint; only the embedded sample can be prepared again.

    Args:
        model: of a checkpoint.
        data_dir: folder of the caches.
        trusted: as for `minillm.load`.

    Raises:
        SettingError: the prepared corpus is not in the caches or has changed, or the config names classes that are not
            allowed.
    """
    node, known = model.config.get("data"), data_classes()
    if not isinstance(node, dict):
        raise SettingError("ckpt", "its data", f"is not in the checkpoint; {NAME_IT}")
    node = {**node, "data_dir": str(data_dir), "prepared": None}
    if not _is_sample(node.get("source")):
        node |= {"source": {"_target_": SAMPLE}, "prepared": model.corpus}
        if not is_fingerprint(model.corpus):
            raise SettingError("ckpt", "its data", f"has a source that is not read again; {NAME_IT}")
        if not (Path(data_dir) / "corpus" / str(model.corpus)).is_dir():
            advice = f"is not in {data_dir} any more: {named('prepare')} with the run's settings prepares it"
            raise SettingError("ckpt", f"its data, {model.corpus},", f"{advice}; or {NAME_IT}")
    node["tokenizer"] = model.config.get("tokenizer")
    if model.config.get("init_from") is not None:  # the tokenizer was not fitted on this text
        node["tokenizer"] = load_tokenizer(model.tokenizer.to_json()).kept()
    data = build(node, known, trusted, "data")
    if not isinstance(data, TextDataModule):
        raise SettingError("data._target_", node.get("_target_"), f"is not a data module; {NAME_IT}")
    data.prepare_data()
    data.setup()
    if data.tokenizer.to_json() != model.tokenizer.to_json():
        advice = f"has changed since the training: it now gives another vocabulary; {NAME_IT}"
        raise SettingError("ckpt", "its data", advice)
    return data


def training_data_if_at_hand(
    model: LanguageModel, data_dir: str | Path, trusted: Collection[str] = ()
) -> TextDataModule | None:
    """Return `training_data`; None, with a warning, if it is not available."""
    try:
        return training_data(model, data_dir, trusted)
    except MiniLLMError as error:
        log.warning("the training text is not available, and checks that need it are skipped: %s", error)
        return None


@contextmanager
def other_text(data: TextDataModule, model: LanguageModel) -> Iterator[Split]:
    """Yield all articles of a data module as one split, encoded by a model's tokenizer.

    Args:
        data: has source and cleaning; its split, tokenizer and vocabulary are not used.
        model: has the tokenizer.

    Raises:
        SettingError: there is no article.
    """
    corpus = replace(data.corpus, split=(1.0, 0.0, 0.0))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "test.arrow"
        articles = corpus.articles("train")
        write_split(path, articles, model.tokenizer)
        yield Split(EncodedFile(path), articles["text"])


def _is_sample(source: Any) -> bool:
    return isinstance(source, dict) and source.get("_target_") == SAMPLE
