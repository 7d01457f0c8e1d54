"""The classes that a checkpoint may name: opening an untrusted checkpoint must only run miniLLM's own classes.

Importing a module runs it, so a name is looked up in a list before any import. Users allow their own classes by full
name, see ``trusted``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from torch import nn

import minillm.corpus
import minillm.data
import minillm.models
import minillm.tokenization
from minillm.configuration import check_arguments, resolve
from minillm.errors import SettingError

# Classes of a checkpoint's data and tokenizer. Of the sources only the embedded one: all others read files or URLs.
DATA_CLASSES = {
    minillm.corpus: ("Cleaner", "DuplicateFilter", "QualityFilter", "SampleSource"),
    minillm.data: ("Augmentation", "Curriculum", "TextDataModule"),
    minillm.tokenization: ("BPETokenizer", "WordTokenizer"),
}


@cache
def networks() -> Mapping[str, Callable[..., Any]]:
    """Return the networks of `minillm.models` by each of their full names."""
    found: dict[str, Callable[..., Any]] = {}
    package = minillm.models.__name__
    for module in pkgutil.iter_modules(minillm.models.__path__, f"{package}."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            is_network = isinstance(thing, type) and issubclass(thing, nn.Module) and thing.__module__ == module.name
            if is_network and "vocab_size" in inspect.signature(thing).parameters:
                found[f"{module.name}.{name}"] = thing
                if name in minillm.models.__all__:
                    found[f"{package}.{name}"] = thing
    return found


@cache
def data_classes() -> Mapping[str, Callable[..., Any]]:
    """Return the classes that a checkpoint's data and tokenizer may use, by full name."""
    classes = ((package, name) for package, names in DATA_CLASSES.items() for name in names)
    return {f"{package.__name__}.{name}": getattr(package, name) for package, name in classes}


def allowed(
    target: Any, known: Mapping[str, Callable[..., Any]], trusted: Collection[str] = (), setting: str = "_target_"
) -> Callable[..., Any]:
    """Return the class with a name from a checkpoint, if it is allowed.

    Args:
        target: the name.
        known: classes that every checkpoint may name here.
        trusted: full names that the user allows in addition; only for these is a module imported.
        setting: the name's place, for the error.

    Raises:
        SettingError: the name is not allowed; nothing was imported.
    """
    if isinstance(target, str) and target in known:
        return known[target]
    if isinstance(target, str) and target in trusted:
        return resolve(target, setting)
    advice = "is not one of miniLLM's classes that a checkpoint may name"
    if isinstance(target, str) and target.replace(".", "").isidentifier() and "." in target:
        advice += f", so it was not imported; if you trust its author: trusted=[{target}]"
    raise SettingError(setting, target, advice)


def build(node: Any, known: Mapping[str, Callable[..., Any]], trusted: Collection[str] = (), name: str = "") -> Any:
    """Instantiate a checkpoint's node with a ``_target_``, and the nodes in its arguments.

    Unlike Hydra, it only calls allowed classes, with arguments of the declared types, and resolves no interpolations.

    Args:
        node: plain values; values other than nodes are returned unchanged.
        known: as for `allowed`.
        trusted: as for `allowed`.
        name: the node's place, for errors.

    Raises:
        SettingError: a class that is not allowed, or an argument that the class refuses.
    """
    if isinstance(node, list):
        return [build(child, known, trusted, f"{name}.{number}") for number, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    children = {str(key): child for key, child in node.items() if key != "_target_"}
    built = {key: build(child, known, trusted, f"{name}.{key}") for key, child in children.items()}
    if "_target_" not in node:
        return built
    target = allowed(node["_target_"], known, trusted, f"{name}._target_")
    check_arguments(target, built, name)
    try:
        return target(**built)
    except SettingError as error:
        raise error.within("" if "." in error.setting else name) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingError(name, node["_target_"], " ".join(str(error).split())) from error
