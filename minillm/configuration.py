"""From a composed config to objects, with checked types and errors that name the key."""

import contextlib
import difflib
import inspect
import math
import pkgutil
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import hydra
import typeguard
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from minillm.errors import SettingError

# Groups that contain nodes with any names, and a choice to advise.
GROUPS_OF_NODES = {"callbacks": "default", "logger": "default", "benchmark": "full"}


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as dicts, lists and scalars, with all interpolations resolved."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as a flat dict of settings by full name.

    >>> flat({"data": {"split": [0.7, 0.3], "source": {"path": "a"}}, "seed": 0})
    {'data.split': [0.7, 0.3], 'data.source.path': 'a', 'seed': 0}
    """
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def instantiate(config: DictConfig, name: str, /, **arguments: Any) -> Any:
    """Build the object that ``config[name]`` describes by its ``_target_``.

    Args:
        config: the composed config.
        name: the group's name.
        arguments: further arguments, which are not in the config.

    Raises:
        SettingError: the class refuses an argument; the error has its full name.
    """
    node = config.get(name)
    if not OmegaConf.is_dict(node) or ("_target_" not in node and name not in GROUPS_OF_NODES):
        raise SettingError(name, node, "has no _target_; choose one of the files in conf/")
    try:
        if not arguments:
            return hydra.utils.instantiate(config[name], _convert_="all")
        # Hydra would treat the arguments as config, and instantiate nodes in them.
        return hydra.utils.instantiate(config[name], _convert_="all", _partial_=True)(**arguments)
    except SettingError as error:
        raise error.within("" if "." in error.setting else name) from error
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise
        # The last line of Hydra's message names the node that failed.
        node = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else name
        if isinstance(cause, SettingError):
            raise cause.within("" if "." in cause.setting else node) from cause
        target = OmegaConf.select(config, f"{node}._target_")
        raise SettingError(node, target, " ".join(str(cause).split())) from cause


def check_types(config: DictConfig, settings: Mapping[str, Any], declared: Collection[str] | None = None) -> None:
    """Check the type of every value in a composed config.

    The classes named by ``_target_`` declare the types; ``settings`` has those of the script's own settings.

    Args:
        config: the composed config.
        settings: types of the script's own settings.
        declared: names of all settings and groups of the script; None: not checked.

    Raises:
        SettingError: a value of the wrong type, or an unknown setting.
    """
    root = plain(config)
    for setting in root:
        if declared is not None and setting not in declared:
            close = difflib.get_close_matches(str(setting), declared, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingError(setting, root[setting], f"there is no such setting{hint}")
    _check_values(root, "")
    for setting, expected in settings.items():
        _check_value(setting, root[setting], expected)
    paths = root.get("paths") or {}
    if not isinstance(paths, dict):
        raise SettingError("paths", paths, "names no folders; paths=default would do")
    for name, folder in paths.items():
        if not isinstance(folder, str) or not folder.strip():
            raise SettingError(f"paths.{name}", repr(folder), "must name a folder")
    for group, usual in GROUPS_OF_NODES.items():
        nodes = root.get(group) or {}
        if not isinstance(nodes, dict):
            raise SettingError(group, nodes, f"has no nodes; {group}={usual} would do")
        for name, node in nodes.items():
            if not isinstance(node, dict) or "_target_" not in node:
                raise SettingError(f"{group}.{name}", node, f"has no _target_; ~{group}.{name} removes it")
    _check_node(root, "")


def _check_values(node: Any, name: str) -> None:
    """Refuse values that are invalid for every setting."""
    if isinstance(node, dict):
        for key, child in node.items():
            _check_values(child, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        for child in node:
            _check_values(child, name)
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise SettingError(name, node, "has more than 64 bits")
    elif isinstance(node, float) and math.isnan(node):
        raise SettingError(name, node, "is not a number")
    elif isinstance(node, str) and "\0" in node:
        raise SettingError(name, node, "contains a null character")


def _check_node(node: Any, name: str) -> None:
    if isinstance(node, list):
        for number, child in enumerate(node):
            _check_node(child, f"{name}.{number}")
    if not isinstance(node, dict):
        return
    for switch in "_partial_", "_recursive_":
        if not isinstance(node.get(switch, True), bool):
            raise SettingError(f"{name}.{switch}", node[switch], "must be true or false")
    if "_target_" in node:
        check_arguments(resolve(node["_target_"], f"{name}._target_"), node, name)
    for key, child in node.items():
        _check_node(child, f"{name}.{key}" if name else str(key))


def resolve(target: Any, setting: str) -> Callable[..., Any]:
    """Return the class or function with a full name from a user's setting; importing it runs its module.

    Raises:
        SettingError: it cannot be imported, or is not callable.
    """
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:  # its module can raise anything
        raise SettingError(setting, target, f"cannot be imported: {' '.join(str(error).split())}") from error
    if not callable(found):
        raise SettingError(setting, target, "is neither a class nor a function")
    return typing.cast(Callable[..., Any], found)


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], group: str = "") -> None:
    """Check arguments against the types that a class or function declares.

    Args:
        target: the class or function.
        arguments: by name; Hydra's keys, such as ``_target_``, are ignored.
        group: prefix of the names in an error.

    Raises:
        SettingError: a value of the wrong type, or an unknown argument.
    """
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # written in C, without a signature
        return
    function = target.__init__ if inspect.isclass(target) else target
    try:
        types = typing.get_type_hints(function)
    except NameError:  # a type that a library imports only for type checkers
        types = {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in arguments.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        prefix = f"{group}." if group else ""
        setting = f"{prefix}{key}"
        if key not in parameters:
            if not takes_any:
                close = difflib.get_close_matches(key, parameters, n=1)
                hint = f"; did you mean {prefix}{close[0]}?" if close else ""
                raise SettingError(setting, value, f"{target.__name__} has no such setting{hint}")
            continue
        if isinstance(value, dict) and "_target_" in value:
            continue  # checked as a node of its own
        expected = types.get(key, Any)
        # So are nodes in a list, such as callbacks.
        if isinstance(value, list) and any(isinstance(item, dict) and "_target_" in item for item in value):
            continue
        _check_value(setting, value, expected)


def _check_value(setting: str, value: Any, expected: Any) -> None:
    if not _fits(value, expected):
        shown = expected.__name__ if inspect.isclass(expected) else str(expected).replace("typing.", "")
        raise SettingError(setting, value, f"must be {shown}, not {type(value).__name__}")


def _fits(value: Any, expected: Any) -> bool:
    # YAML has no tuples, so a list is accepted as one.
    for form in (value, tuple(value)) if isinstance(value, list) else (value,):
        with contextlib.suppress(typeguard.TypeCheckError):
            typeguard.check_type(form, expected)
            return True
    return False
