"""The ``--help`` page, generated from the comments in conf/.

The opening comment of a script's root config has its purpose, examples and main settings; the first sentence of a
choice's file describes the choice. So a new script or file is on the page without further work::

    # Lets a trained model write.
    #
    # Examples:
    #   python scripts/generate.py prompt="El agua"          the newest run's best checkpoint
    #
    # Settings:
    #   sampling.temperature     0: always the most probable token
    defaults: ...

Without "Settings" the page lists the root config's own settings with their comments.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from minillm.command import spelled
from minillm.configuration import flat

# `base` is shared by other files and not a choice; `hydra` and `paths` only set folders.
NOT_A_CHOICE = frozenset(("base",))
NOT_SHOWN = frozenset(("hydra", "paths"))
INDENT = 2
GAP = "  "  # between a name and its description


def help_page(config_name: str, conf: Path, width: int) -> str:
    """Return a script's help page.

    Args:
        config_name: name of the script and its root config.
        conf: folder of the configs.
        width: characters per line.
    """
    text = (conf / f"{config_name}.yaml").read_text(encoding="utf-8")
    text = re.sub(r"python scripts/(\w+)\.py", lambda named: spelled(named[1]), text)
    parts = _parts(text)
    lines = [*_wrapped(parts.get("", ""), width), "", "Examples:"]
    lines += _table(_pairs(parts.get("Examples", "")), width)
    lines += ["", "Settings (NAME=VALUE), with their defaults:"]
    values = flat(defaults(config_name, conf))
    settings = _pairs(parts.get("Settings", "")) or _own_settings(text)
    lines += _table([(f"{name}={_shown(values.get(name))}", what) for name, what in settings], width)
    offered = list(groups(config_name, conf))
    if offered:
        lines += ["", "Choices (GROUP=CHOICE); * is the default:"]
    for group, chosen in offered:
        lines += ["", f"{group}="]
        lines += _table(
            [(f"{'*' if name == chosen else ' '} {name}", what) for name, what in choices(group, conf)], width
        )
    lines += [
        "",
        *_wrapped("--cfg job shows all settings; conf/ explains each. --hydra-help: sweeps and more.", width),
    ]
    return "\n".join(lines)


def defaults(config_name: str, conf: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """Return a script's config with these overrides, as a dict, without resolving interpolations."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose(config_name, overrides=list(words))
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))


def choices(group: str, conf: Path) -> list[tuple[str, str]]:
    """Return a group's choices with their descriptions; a folder in the group is one choice."""
    found = [(path.stem, _first_sentence(path)) for path in sorted((conf / group).glob("*.yaml"))]
    for folder in sorted(path for path in (conf / group).iterdir() if path.is_dir()):
        names = ", ".join(path.stem for path in sorted(folder.glob("*.yaml")))
        found.append((f"{folder.name}/...", f"one of {names}"))
    return [(name, what) for name, what in found if name not in NOT_A_CHOICE]


def groups(config_name: str, conf: Path) -> Iterator[tuple[str, str | None]]:
    """Yield a script's config groups with their default choices."""
    for choice in yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]:
        for group, chosen in choice.items() if isinstance(choice, Mapping) else ():
            if group not in NOT_SHOWN:
                yield group, chosen


def _comment(text: str) -> list[str]:
    """Return the lines of a file's opening comment."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a file's opening comment."""
    comment = _comment(path.read_text(encoding="utf-8"))
    text = " ".join(takewhile(lambda line: line and not line.startswith(" "), comment))
    sentence = re.split(r"(?<=[a-z0-9)\]])\.\s+(?=[A-Z#])", text, maxsplit=1)[0]
    return sentence.strip().rstrip(".:")


def _parts(text: str) -> dict[str, str]:
    """Return the parts of a root config's opening comment by title; the first part has the title ""."""
    parts: dict[str, list[str]] = {"": []}
    title = ""
    for line in _comment(text):
        if match := re.fullmatch(r"([A-Z]\w*):", line):
            title = match[1]
            parts[title] = []
        else:
            parts[title].append(line)
    return {name: "\n".join(lines).strip("\n") for name, lines in parts.items()}


def _pairs(part: str) -> list[tuple[str, str]]:
    """Return the lines of a part as pairs: the text before the gap and the text after it."""
    lines = [line.strip() for line in part.splitlines() if line.strip()]
    return [(name.strip(), what.strip()) for name, _, what in (line.partition(GAP) for line in lines)]


def _own_settings(text: str) -> list[tuple[str, str]]:
    """Return the settings in a root config itself with their comments, above them or on the same line."""
    settings: list[tuple[str, str]] = []
    above: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
            continue
        match = re.fullmatch(r"( *)(\w+):([^#]*)(?:#\s*(.*))?", line)
        if match:
            indent, name, value, comment = match.groups()
            path = [*path[: len(indent) // 2], name]
            is_setting = bool(value.strip()) or name == "defaults"
            if is_setting and path[0] != "defaults" and name != "_target_":
                settings.append((".".join(path), " ".join([*above, *([comment] if comment else [])])))
        above = []
    return settings


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)).partition("\n")[0]


def _wrapped(text: str, width: int) -> list[str]:
    return [line for paragraph in text.split("\n\n") for line in [*textwrap.wrap(paragraph, width), ""]][:-1]


def _table(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Return rows of two columns as lines; if the first is too long, the second starts on its own line."""
    longest = max((len(name) for name, _ in rows), default=0)
    column = min(longest, width * 11 // 20) + INDENT + len(GAP)
    lines = []
    for name, what in rows:
        head = " " * INDENT + name
        wrapped = textwrap.wrap(what, max(20, width - column), break_on_hyphens=False)
        if len(head) + len(GAP) > column and wrapped:
            lines.append(head)
        elif wrapped:
            lines.append(f"{head:<{column}}{wrapped.pop(0)}")
        else:
            lines.append(head)
        lines += [" " * column + line for line in wrapped]
    return lines
