"""What all formats share: their input, and a folder that is written completely or not at all."""

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
    """A trained model, its evaluation and its data.

    Attributes:
        model: network, tokenizer and configuration, on the CPU.
        checkpoint: its file.
        evaluation: of this checkpoint; None: it was not evaluated.
        data_dir: folder of the caches, which may have its training text.
        trusted: as for `minillm.load`.
    """

    model: LanguageModel
    checkpoint: Path
    evaluation: Evaluation | None = None
    data_dir: Path = Path("outputs/data")
    trusted: tuple[str, ...] = ()

    @classmethod
    def of(cls, ckpt: str, data_dir: str | Path = "outputs/data", trusted: Collection[str] = ()) -> "TrainedRun":
        """Return the run of a checkpoint.

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
        # The folder's evaluation is of the best checkpoint only.
        if evaluation is not None and Path(evaluation["checkpoint"]).name != checkpoint.name:
            evaluation = None
        return cls(model, checkpoint, evaluation, Path(data_dir), tuple(trusted))

    def data(self) -> TextDataModule:
        """Return the prepared text of the model's training and test.

        Raises:
            SettingError: it is not there.
        """
        return training_data(self.model, self.data_dir, self.trusted)


class ExportFormat(Protocol):
    """A format of ``conf/format/``: writes a model for another program."""

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files into an empty folder.

        Raises:
            SettingError: the model, or its tokenizer, cannot be expressed.
        """


def check_target(path: str | None) -> Path:
    """Return the folder of an export after a check that it is new or empty.

    Raises:
        SettingError: no path, a file, or a folder with content.
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
    """Write a model into a new folder, completely or not at all, with a ``SHA256SUMS`` of its files.

    Args:
        run: the model.
        chosen: the format.
        path: the folder; it must not exist, or be empty.

    Raises:
        SettingError: the folder has content, or the format cannot express the model.
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
    """Import and return an optional library.

    Args:
        name: of the module.
        purpose: the setting that needs it, such as ``format=gguf``.
        extra: its extra in pyproject.toml.

    Raises:
        SettingError: it is not installed.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        setting, _, value = purpose.partition("=")
        raise SettingError(setting, value, f"needs {name.partition('.')[0]}; pip install -e '.[{extra}]'")
    return importlib.import_module(name)
