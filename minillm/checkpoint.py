"""Checkpoints as files: finding, reading, checking them, and building the network that they describe."""

import hashlib
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from minillm.command import named
from minillm.configuration import check_arguments, resolve
from minillm.errors import OutsideError, SettingError
from minillm.files import problem_of
from minillm.numerics import all_finite
from minillm.trust import allowed, networks


def build_network(model: Any, vocab_size: int, trusted: Collection[str] | None = None) -> nn.Module:
    """Return the network that a config's ``model`` node describes, with fresh weights.

    Args:
        model: the node, as plain values.
        vocab_size: entries of the tokenizer's vocabulary.
        trusted: None: the node is the user's own words, and any network will do. Of a file that may come from anywhere:
            the full names of classes that it may name besides the project's own; of no other is anything imported.

    Raises:
        SettingError: a size that cannot be built, or a ``_target_`` that is no network: nothing else is ever called.
    """
    if not isinstance(model, dict):
        raise SettingError("model", model, "describes no network; model=minigpt would do")
    target = model.get("_target_", "")
    if trusted is None:
        network = resolve(target, "model._target_")
    else:
        network = allowed(target, networks(), trusted, "model._target_")
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise SettingError("model._target_", target, "is no network: not a torch.nn.Module")
    arguments = {str(name): value for name, value in model.items() if not str(name).startswith("_")}
    check_arguments(network, arguments, "model")
    try:
        return network(vocab_size=vocab_size, **arguments)
    except SettingError as error:
        raise error.within("model") from error
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SettingError("model._target_", target, " ".join(str(error).split())) from error


def outline_network(model: dict[str, Any], vocab_size: int) -> nn.Module:
    """Return the network of `build_network` without its memory: shapes alone, to find bad settings at no cost."""
    with torch.device("meta"):
        return build_network(model, vocab_size)


SEAL = b"sha256:"  # with a digest it is the comment at the archive's end


class SealingWriter:
    """A file for ``torch.save`` that computes the SHA-256 of all that is written; `seal` adds it at the end.

    What PyTorch writes is a zip archive. Its own checksums, of each record but not of the directory that says where
    the records are, nobody compares on loading. The digest becomes the archive's comment, which readers of zip
    archives pass over.

    Args:
        file: where to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write, as files do."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush, as files do."""
        self._file.flush()

    def seal(self) -> None:
        """Put the digest behind the archive, and its length, until now 0, into the archive's last two bytes."""
        comment = SEAL + self._digest.hexdigest().encode()
        self._file.seek(-2, 1)
        self._file.write(struct.pack("<H", len(comment)) + comment)


def check_seal(path: Path) -> None:
    """Check that a checkpoint is as it was written.

    Of a file without a seal, such as one that ``torch.save`` wrote elsewhere, only the records' own checksums are
    compared.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
        zipfile.BadZipFile: it is damaged, or no archive.
    """
    length = len(SEAL) + 64
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - length - 2))
        end = file.read()
        if not end[2:].startswith(SEAL):
            if not end.endswith(b"\0\0"):  # an archive without a comment ends so; this one has lost a part of its seal
                raise ValueError("it is cut short")
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            return
        digest = hashlib.sha256()
        file.seek(0)
        left = size - length - 2
        while left:
            chunk = file.read(min(left, 2**20))
            left -= len(chunk)
            digest.update(chunk)
        digest.update(b"\0\0")  # the length of the comment before there was one
        if end != struct.pack("<H", length) + SEAL + digest.hexdigest().encode():
            raise ValueError("its SHA-256 is another")


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Return what a checkpoint holds; nothing in it is run.

    Raises:
        SettingError: no such file, not a whole checkpoint of miniLLM, or weights that are not finite.
    """
    path = Path(checkpoint)
    if not path.is_file():
        what = "is a folder without a config.json" if path.is_dir() else "does not exist"
        raise SettingError("ckpt", checkpoint, f"{what}; give a path such as outputs/train/.../checkpoints/best.ckpt")
    try:
        check_seal(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OutsideError(f"{path} cannot be read: {problem_of(error)}") from error
    except Exception as error:  # bytes at random raise anything
        others = [other for name in ("best", "last") if (other := path.with_name(f"{name}.ckpt")) != path]
        advice = next((f"such as {other}" for other in others if other.is_file()), "best.ckpt or last.ckpt of a run")
        raise SettingError(
            "ckpt", checkpoint, f"is damaged, cut short, or no checkpoint at all; use another, {advice}"
        ) from error
    expected = {"state_dict": dict, "config": dict, "tokenizer": str, "metrics": dict}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in expected.items()):
        raise SettingError("ckpt", checkpoint, f"was not written by miniLLM; use a checkpoint of {named('train')}")
    if not all_finite(value for value in saved["state_dict"].values() if isinstance(value, torch.Tensor)):
        raise SettingError("ckpt", checkpoint, "has weights that are not finite: its training diverged; use another")
    return saved


def find_checkpoint(ckpt: str, outputs: str | Path = "outputs") -> Path:
    """Return the checkpoint that a setting means: a path, or ``latest``: the newest run's best one.

    Args:
        ckpt: the setting.
        outputs: where the runs are.

    Raises:
        SettingError: ``latest``, but no run has a checkpoint.
    """
    if ckpt != "latest":
        return Path(ckpt)
    found = [
        *Path(outputs).glob("train/*/checkpoints/best.ckpt"),
        *Path(outputs).glob("multirun/*/*/checkpoints/best.ckpt"),
    ]
    if not found:
        raise SettingError("ckpt", ckpt, f"no run under {outputs} has a checkpoint; train one with {named('train')}")
    return max(found, key=lambda path: path.stat().st_mtime)
