"""Checkpoints as files: finding, reading, checking them, and building the network that they describe."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minillm.configuration import check_arguments, resolve
from minillm.errors import OutsideError, SettingError
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


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Return what a checkpoint holds; nothing in it is run.

    Raises:
        SettingError: no such file, not a whole checkpoint of miniLLM, or weights that are not finite.
    """
    path = Path(checkpoint)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise SettingError("ckpt", checkpoint, f"{what}; give a path such as outputs/train/.../checkpoints/best.ckpt")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OutsideError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes at random raise anything
        raise SettingError("ckpt", checkpoint, "is damaged, cut short, or no checkpoint at all; use another") from error
    expected = {"state_dict": dict, "config": dict, "tokenizer": str, "metrics": dict}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in expected.items()):
        raise SettingError("ckpt", checkpoint, "was not written by miniLLM; use a checkpoint of scripts/train.py")
    if not all_finite(value for value in saved["state_dict"].values() if isinstance(value, torch.Tensor)):
        raise SettingError(
            "ckpt", checkpoint, "holds weights that are no finite numbers: its training diverged; use another"
        )
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
        raise SettingError("ckpt", ckpt, f"no run under {outputs} has a checkpoint; train one with scripts/train.py")
    return max(found, key=lambda path: path.stat().st_mtime)
