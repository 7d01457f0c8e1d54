"""What all formats share: what they are given, and that their folder is there whole or not at all."""

import importlib
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minillm.checkpoint import find_checkpoint
from minillm.data import TextDataModule
from minillm.errors import OutsideError, SettingError
from minillm.evaluation.results import read_evaluation
from minillm.evaluation.schema import Evaluation
from minillm.evaluation.text import training_data
from minillm.files import problem_of, written_whole
from minillm.language_model import LanguageModel, load


@dataclass(frozen=True)
class TrainedRun:
    """A trained model with what is known about it.

    Attributes:
        model: network, tokenizer and configuration, on the processor.
        checkpoint: where it comes from.
        evaluation: what was written of this very checkpoint; None: it was not evaluated.
        data_dir: folder of the caches, where the text that it learned from may be.
        trusted: as for `minillm.load`.
    """

    model: LanguageModel
    checkpoint: Path
    evaluation: Evaluation | None = None
    data_dir: Path = Path("outputs/data")
    trusted: tuple[str, ...] = ()

    @classmethod
    def of(cls, ckpt: str, data_dir: str | Path = "outputs/data", trusted: Collection[str] = ()) -> "TrainedRun":
        """Return the run that a checkpoint belongs to.

        Args:
            ckpt: a checkpoint's path, or ``latest``.
            data_dir: folder of the caches.
            trusted: as for `minillm.load`.

        Raises:
            SettingError: no such checkpoint, or a damaged one.
            OutsideError: the evaluation beside it is damaged.
        """
        checkpoint = find_checkpoint(ckpt)
        model = load(checkpoint, device="cpu", trusted=trusted)
        evaluation = read_evaluation(checkpoint.parent.parent)
        # The folder's evaluation is of the best checkpoint: of another one it says nothing.
        if evaluation is not None and Path(evaluation["checkpoint"]).name != checkpoint.name:
            evaluation = None
        return cls(model, checkpoint, evaluation, Path(data_dir), tuple(trusted))

    def data(self) -> TextDataModule:
        """Return the text that the model was trained and tested with, prepared.

        Raises:
            SettingError: it is not at hand.
        """
        return training_data(self.model, self.data_dir, self.trusted)


class ExportFormat(Protocol):
    """What a file in ``conf/format/`` names: writes a model as another program reads it."""

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files into a folder that is there and empty.

        Raises:
            SettingError: the model, or its tokenizer, cannot be expressed.
        """


def check_target(path: str | None) -> Path:
    """Return where an export shall be, after a check that nothing is there yet.

    Raises:
        SettingError: no path, a file, or a folder that holds something.
    """
    if not path or not path.strip():
        raise SettingError("path", path, "must name the folder to write, such as my_model/")
    target = Path(path)
    try:
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise SettingError("path", path, "is there already; choose another folder, or remove it")
    except OSError as error:
        raise SettingError("path", path, f"is no folder to write ({problem_of(error)})") from error
    return target


def export(run: TrainedRun, chosen: ExportFormat, path: str | Path) -> Path:
    """Write a model into a new folder, whole or not at all, with a ``SHA256SUMS`` of its files.

    Args:
        run: the model.
        chosen: how it is written.
        path: the folder; it must not exist, or be empty.

    Raises:
        SettingError: the folder holds something, or the format cannot express the model.
        OutsideError: it cannot be written.
    """
    target = check_target(str(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target, folder=True) as folder:
            chosen(run, folder)
    except OSError as error:
        raise OutsideError(f"{target}: cannot be written ({problem_of(error)})") from error
    return target


def library(name: str, purpose: str, extra: str = "export") -> Any:
    """Return a library that is an extra, imported now.

    Args:
        name: of the module.
        purpose: the setting that needs it, such as ``format=gguf``.
        extra: the extra of pyproject.toml that brings it.

    Raises:
        SettingError: it is not installed.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        setting, _, value = purpose.partition("=")
        raise SettingError(setting, value, f"needs {name.partition('.')[0]}; pip install -e '.[{extra}]'")
    return importlib.import_module(name)
