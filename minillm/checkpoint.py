"""Checkpoint files: find, check and read them, and build their networks."""

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
    """Return the network of a config's ``model`` node, with initial weights.

    Args:
        model: the node, as plain values.
        vocab_size: entries of the tokenizer's vocabulary.
        trusted: None: the node is the user's own, and any class is allowed. For the node of an untrusted file: full
            names of the classes that are allowed besides miniLLM's networks; nothing else is imported.

    Raises:
        SettingError: a size that cannot be built, or a ``_target_`` that is not a network class; it is not called.
    """
    if not isinstance(model, dict):
        raise SettingError("model", model, "does not describe a network; model=minigpt would do")
    target = model.get("_target_", "")
    if trusted is None:
        network = resolve(target, "model._target_")
    else:
        network = allowed(target, networks(), trusted, "model._target_")
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise SettingError("model._target_", target, "is not a network class (a torch.nn.Module)")
    arguments = {str(name): value for name, value in model.items() if not str(name).startswith("_")}
    check_arguments(network, arguments, "model")
    try:
        return network(vocab_size=vocab_size, **arguments)
    except SettingError as error:
        raise error.within("model") from error
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SettingError("model._target_", target, " ".join(str(error).split())) from error


def outline_network(model: dict[str, Any], vocab_size: int) -> nn.Module:
    """Return the network of `build_network` without memory for weights, to find bad settings quickly."""
    with torch.device("meta"):
        return build_network(model, vocab_size)


SEAL = b"sha256:"  # followed by the digest, in the comment at the end of the zip archive


class SealingWriter:
    """A file for ``torch.save`` that computes the SHA-256 of its content; `seal` appends it.

    PyTorch writes a zip archive, but does not check its checksums on loading, and the archive has none of its directory
    of records. The digest becomes the archive's comment, which other readers ignore.

    Args:
        file: the file to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write bytes; return their number."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def seal(self) -> None:
        """Append the digest as the archive's comment, and write its length into the archive's last two bytes."""
        comment = SEAL + self._digest.hexdigest().encode()
        self._file.seek(-2, 1)
        self._file.write(struct.pack("<H", len(comment)) + comment)


def check_seal(path: Path) -> None:
    """Check that a checkpoint is undamaged.

    In a file without a digest, such as one of plain ``torch.save``, only the archive's own checksums are checked.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
        zipfile.BadZipFile: it is damaged, or not a zip archive.
    """
    length = len(SEAL) + 64
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - length - 2))
        end = file.read()
        if not end[2:].startswith(SEAL):
            if not end.endswith(b"\0\0"):  # as an archive without a comment does: this one's digest is incomplete
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
        digest.update(b"\0\0")  # the comment's length when the digest was computed
        if end != struct.pack("<H", length) + SEAL + digest.hexdigest().encode():
            raise ValueError("its SHA-256 differs")


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint; no code in it is run.

    Raises:
        SettingError: no such file, not a complete checkpoint of miniLLM, or weights that are not finite.
        OutsideError: it cannot be read.
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
    except Exception as error:  # damaged bytes can raise anything
        others = [other for name in ("best", "last") if (other := path.with_name(f"{name}.ckpt")) != path]
        advice = next((f"such as {other}" for other in others if other.is_file()), "best.ckpt or last.ckpt of a run")
        raise SettingError(
            "ckpt", checkpoint, f"is damaged, incomplete, or not a checkpoint; use another, {advice}"
        ) from error
    expected = {"state_dict": dict, "config": dict, "tokenizer": str, "metrics": dict}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in expected.items()):
        raise SettingError("ckpt", checkpoint, f"was not written by miniLLM; use a checkpoint of {named('train')}")
    if not all_finite(value for value in saved["state_dict"].values() if isinstance(value, torch.Tensor)):
        raise SettingError("ckpt", checkpoint, "has weights that are not finite: its training diverged; use another")
    return saved


def find_checkpoint(ckpt: str, outputs: str | Path = "outputs") -> Path:
    """Return the path of a checkpoint.

    Args:
        ckpt: a path, or ``latest``: the best checkpoint of the newest run.
        outputs: folder of the runs.

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
