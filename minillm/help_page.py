"""The page that ``--help`` shows, made of the comments in conf/.

What a script is for, its examples and the settings that people change are the comment that its root config opens with;
what a choice is for is the first line of its file. So whoever adds a script or a file has added it to the page::

    # Lets a trained model write.
    #
    # Examples:
    #   python scripts/generate.py prompt="El agua"          the newest run's best checkpoint
    #
    # Settings:
    #   sampling.temperature     0: always the most probable token
    defaults: ...

Without a part "Settings" the page lists the root config's own settings, each with its comment.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from minillm.command import spelled
from minillm.configuration import flat

# What no choice describes: `base` is what others share, `hydra` and `paths` are where files go.
NOT_A_CHOICE = frozenset(("base",))
NOT_SHOWN = frozenset(("hydra", "paths"))
INDENT = 2
GAP = "  "  # between a name and what it is for


def help_page(config_name: str, conf: Path, width: int) -> str:
    """Return a script's page.

    Args:
        config_name: the script's name, and its root config's.
        conf: the folder of the configs.
        width: characters of a line.
    """
    text = (conf / f"{config_name}.yaml").read_text(encoding="utf-8")
    text = re.sub(r"python scripts/(\w+)\.py", lambda named: spelled(named[1]), text)
    parts = _parts(text)
    lines = [*_wrapped(parts.get("", ""), width), "", "Examples:"]
    lines += _table(_pairs(parts.get("Examples", "")), width)
    lines += ["", "Settings (NAME=VALUE), here with what they are unless said otherwise:"]
    values = flat(defaults(config_name, conf))
    settings = _pairs(parts.get("Settings", "")) or _own_settings(text)
    lines += _table([(f"{name}={_shown(values.get(name))}", what) for name, what in settings], width)
    offered = list(groups(config_name, conf))
    if offered:
        lines += ["", "Choices (GROUP=CHOICE); * is taken unless another is said:"]
    for group, chosen in offered:
        lines += ["", f"{group}="]
        lines += _table(
            [(f"{'*' if name == chosen else ' '} {name}", what) for name, what in choices(group, conf)], width
        )
    lines += [
        "",
        *_wrapped("--cfg job shows all settings; conf/ says what each is for. --hydra-help: sweeps and more.", width),
    ]
    return "\n".join(lines)


def defaults(config_name: str, conf: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a script's config is when nothing is said but these words, interpolations as they are written."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose(config_name, overrides=list(words))
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return plain


def choices(group: str, conf: Path) -> list[tuple[str, str]]:
    """Return a group's choices, each with what it is for; those of a folder in the group are one."""
    found = [(path.stem, _first_sentence(path)) for path in sorted((conf / group).glob("*.yaml"))]
    for folder in sorted(path for path in (conf / group).iterdir() if path.is_dir()):
        names = ", ".join(path.stem for path in sorted(folder.glob("*.yaml")))
        found.append((f"{folder.name}/...", f"one of {names}"))
    return [(name, what) for name, what in found if name not in NOT_A_CHOICE]


def groups(config_name: str, conf: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the groups that a script offers choices of, each with the one that is taken unless another is said."""
    for choice in yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]:
        for group, chosen in choice.items() if isinstance(choice, Mapping) else ():
            if group not in NOT_SHOWN:
                yield group, chosen


def _comment(text: str) -> list[str]:
    """Return the lines of the comment that a file opens with."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


def _first_sentence(path: Path) -> str:
    """Return what a file's opening comment says first: up to where a sentence, or the comment, ends."""
    comment = _comment(path.read_text(encoding="utf-8"))
    text = " ".join(takewhile(lambda line: line and not line.startswith(" "), comment))
    sentence = re.split(r"(?<=[a-z0-9)\]])\.\s+(?=[A-Z#])", text, maxsplit=1)[0]
    return sentence.strip().rstrip(".:")


def _parts(text: str) -> dict[str, str]:
    """Return the parts of a root config's opening comment by their titles; the first has none."""
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
    """Return the lines of a part as what stands in front of a gap, and behind it."""
    lines = [line.strip() for line in part.splitlines() if line.strip()]
    return [(name.strip(), what.strip()) for name, _, what in (line.partition(GAP) for line in lines)]


def _own_settings(text: str) -> list[tuple[str, str]]:
    """Return the settings that stand in a root config itself, each with its comment: above it, or behind it."""
    settings: list[tuple[str, str]] = []
    above: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
            continue
        match = re.fullmatch(r"( *)(\w+):([^#]*)(?:#\s*(.*))?", line)
        if match:
            indent, name, value, behind = match.groups()
            path = [*path[: len(indent) // 2], name]
            is_setting = bool(value.strip()) or name == "defaults"
            if is_setting and path[0] != "defaults" and name != "_target_":
                settings.append((".".join(path), " ".join([*above, *([behind] if behind else [])])))
        above = []
    return settings


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)).partition("\n")[0]


def _wrapped(text: str, width: int) -> list[str]:
    return [line for paragraph in text.split("\n\n") for line in [*textwrap.wrap(paragraph, width), ""]][:-1]


def _table(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Return rows of two columns as lines; where the first one is too long, the second begins on a line of its own."""
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
