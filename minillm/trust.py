"""What a checkpoint may name: it can come from anywhere, and opening it must run nothing but this project's classes.

A name is looked up in a list before anything is imported: importing a module runs it. A class of one's own is allowed
by its full name, see ``trusted``.
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

# What evaluation makes of a checkpoint's data and tokenizer: no source but the embedded one, for each of the others
# reads files or addresses.
OF_DATA = {
    minillm.corpus: ("Cleaner", "DuplicateFilter", "QualityFilter", "SampleSource"),
    minillm.data: ("Augmentation", "Curriculum", "TextDataModule"),
    minillm.tokenization: ("BPETokenizer", "WordTokenizer"),
}


@cache
def networks() -> Mapping[str, Callable[..., Any]]:
    """Return the networks of `minillm.models` by all of their names."""
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
    """Return what a checkpoint's data and tokenizer may be made of, by name."""
    return {
        f"{package.__name__}.{name}": getattr(package, name) for package, names in OF_DATA.items() for name in names
    }


def allowed(
    target: Any, known: Mapping[str, Callable[..., Any]], trusted: Collection[str] = (), setting: str = "_target_"
) -> Callable[..., Any]:
    """Return the class that a checkpoint names, where it may name it.

    Args:
        target: the name.
        known: the classes that every checkpoint may name here.
        trusted: full names that the user allows besides; of these alone is a module imported.
        setting: where the name stands, for the error.

    Raises:
        SettingError: any other name; nothing was imported for it.
    """
    if isinstance(target, str) and target in known:
        return known[target]
    if isinstance(target, str) and target in trusted:
        return resolve(target, setting)
    advice = "is none of miniLLM's classes that a checkpoint may name"
    if isinstance(target, str) and target.replace(".", "").isidentifier() and "." in target:
        advice += f", so nothing was imported; if you trust who made it: trusted=[{target}]"
    raise SettingError(setting, target, advice)


def build(node: Any, known: Mapping[str, Callable[..., Any]], trusted: Collection[str] = (), name: str = "") -> Any:
    """Return the object that a checkpoint's node describes by its ``_target_``, and those that its arguments describe.

    Unlike Hydra's it calls allowed classes only, with arguments of the declared types, and resolves no interpolation.

    Args:
        node: plain values; a mapping without a ``_target_``, and all else, is returned as it is.
        known: as for `allowed`.
        trusted: as for `allowed`.
        name: where the node stands, for errors.

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
