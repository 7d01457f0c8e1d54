"""Suggestions for unknown settings and choices."""

import argparse
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from minillm.configuration import GROUPS_OF_NODES, flat
from minillm.errors import SettingError, shown
from minillm.help_page import choices, defaults

# Other names of settings, with the settings meant; the first one that the script has is suggested.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "accelerator": ("trainer.accelerator",),
    "accumulate": ("trainer.accumulate_grad_batches",),
    "articles": ("data.num_articles",),
    "batch": ("data.batch_size",),
    "bs": ("data.batch_size",),
    "checkpoint": ("ckpt", "ckpt_path"),
    "ckpt": ("ckpt_path",),
    "clip": ("callbacks.gradient_clipping.max_norm",),
    "context": ("data.max_length",),
    "corpus": ("data.source.path", "data"),
    "cpu": ("trainer=cpu",),
    "dataset": ("data",),
    "device": ("trainer.accelerator",),
    "dim": ("model.embedding_dim",),
    "dropout": ("model.dropout",),
    "epochs": ("trainer.max_epochs",),
    "file": ("prompts_file", "data.source.path"),
    "folder": ("hydra.run.dir",),
    "gpu": ("trainer=gpu",),
    "gpus": ("trainer.devices",),
    "grad_clip": ("callbacks.gradient_clipping.max_norm",),
    "heads": ("model.num_heads",),
    "hidden": ("model.embedding_dim",),
    "hidden_size": ("model.embedding_dim",),
    "iterations": ("trainer.max_steps",),
    "layers": ("model.num_layers",),
    "learning_rate": ("optimizer.lr",),
    "length": ("max_new_tokens", "data.max_length"),
    "lr": ("optimizer.lr",),
    "max_iters": ("trainer.max_steps",),
    "max_tokens": ("max_new_tokens",),
    "model": ("ckpt",),
    "num_samples": ("n",),
    "out": ("output", "output_dir", "hydra.run.dir"),
    "output": ("output_dir", "hydra.run.dir"),
    "output_dir": ("output", "hydra.run.dir"),
    "patience": ("callbacks.early_stopping.patience",),
    "samples": ("n",),
    "schedule": ("scheduler",),
    "sequence_length": ("data.max_length",),
    "smoothing": ("training.label_smoothing",),
    "steps": ("trainer.max_steps",),
    "temp": ("sampling.temperature",),
    "text": ("prompt", "data.source.path"),
    "time": ("trainer.max_time",),
    "tokens": ("trainer.max_tokens", "max_new_tokens"),
    "vocab": ("data.vocab_size",),
    "vocabulary": ("data.vocab_size",),
    "warmup": ("scheduler.warmup",),
    "wd": ("optimizer.weight_decay",),
    "width": ("model.embedding_dim",),
    "workers": ("data.num_workers",),
}
MIN_KEY_SIMILARITY = 0.6  # of the last parts of two names, by difflib
MIN_SIMILARITY = 0.75  # of two names
NO_SUCH = "there is no such setting"
NOT_THE_FORM = "is not how settings are given here"


class MistypedError(SettingError):
    """An unknown setting on the command line, shown as typed."""

    def __init__(self, word: str, advice: str) -> None:
        name, _, value = word.partition("=")
        super().__init__(name, value, advice)
        self.word = word

    def __str__(self) -> str:
        return f"{shown(self.word)}: {self.advice}"


def check_form(arguments: Sequence[str], config_name: str, conf: Path) -> None:
    """Check that a command line consists of ``NAME=VALUE`` and of Hydra's own options.

    Raises:
        SettingError: it has, for example, ``--epochs 5`` or ``epochs 5``; the error suggests the setting meant.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    try:
        known, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:
        return  # a Hydra option without its value: Hydra reports it
    words = list(arguments)
    # A setting after an option is valid.
    unknown = [word for word in unknown if "=" not in word or word[0] == "-"]
    for argument in unknown or [word for word in known.overrides if word and "=" not in word and word[0] != "~"]:
        name, _, value = argument.partition("=")
        following = words[words.index(argument) + 1 :]
        typed = argument
        if not value and following and "=" not in following[0] and not following[0].startswith("-"):
            value = following[0]
            typed = f"{argument} {value}"
        raise MistypedError(typed, f"{NOT_THE_FORM}{_hint(name.lstrip('-'), value, words, config_name, conf)}")


def setting_error(message: str, arguments: Sequence[str], config_name: str, conf: Path) -> SettingError | None:
    """Return the error for an unknown setting; None: Hydra's message is about something else.

    Args:
        message: Hydra's message.
        arguments: the command line.
        config_name: the script's root config.
        conf: folder of the configs.
    """
    match = re.search(r"Could not (?:override|delete(?: from config)?)[.:]? '([^']*)'", message)
    if match is None:
        return None
    name = match[1]
    word = next((word for word in arguments if _name(word) == name), f"{name}=")
    return MistypedError(word, f"{NO_SUCH}{_hint(name, word.partition('=')[2], arguments, config_name, conf)}")


def choice_error(group: str, choice: str, conf: Path) -> SettingError:
    """Return the error for an unknown choice."""
    names = [name for name, _ in choices(group, conf)] if (conf / group).is_dir() else []
    close = difflib.get_close_matches(choice, names, n=1)
    hint = f"did you mean {group}={close[0]}? " if close else ""
    return SettingError(group, choice, f"is no choice; {hint}one of {', '.join(names)} would do")


def meant(name: str, settings: Iterable[str]) -> str | None:
    """Return the setting that a mistyped name probably means; None: none is similar.

    Args:
        name: as typed.
        settings: the names of all settings and groups.

    >>> meant("data.vocabsize", ["data.vocab_size", "data.batch_size", "optimizer.lr"])
    'data.vocab_size'
    >>> meant("learning-rate", ["data.vocab_size", "data.batch_size", "optimizer.lr"])
    'optimizer.lr'
    """
    names = sorted(settings, key=lambda setting: (setting.count("."), len(setting)))
    last = _last(name)
    synonyms = {_normalized(short): targets for short, targets in SYNONYMS.items()}
    targets = [synonyms[_normalized(word)] for word in dict.fromkeys((name, last)) if _normalized(word) in synonyms]
    # First the same name with other separators, then synonyms, then the same key in another group, then similar names.
    group = name.rpartition(".")[0]
    for setting in names:
        if _normalized(setting) == _normalized(name) and setting != name:
            return setting
    for target in (target for row in targets for target in row):
        if (target.partition("=")[0] in names or target.startswith("hydra.")) and target != name:
            return target
    for setting in names:
        if _normalized(_last(setting)) == _normalized(last):
            return setting
    scores = [(_similarity(name, last, group, setting), setting) for setting in names]
    best = max((score for score, _ in scores), default=0.0)
    return next(setting for score, setting in scores if score == best) if best >= MIN_SIMILARITY else None


def _similarity(name: str, last: str, group: str, setting: str) -> float:
    whole = difflib.SequenceMatcher(None, _normalized(name), _normalized(setting)).ratio()
    key = difflib.SequenceMatcher(None, _normalized(last), _normalized(_last(setting))).ratio()
    own = setting.rpartition(".")[0]
    if not group:
        return max(whole, key)
    # The key matters more than the group.
    of_group = difflib.SequenceMatcher(None, group, own).ratio()
    return (of_group + 2 * key) / 3 if own and key >= MIN_KEY_SIMILARITY else 0.0


def _hint(name: str, value: str, arguments: Sequence[str], config_name: str, conf: Path) -> str:
    """Return the end of an error's message: the setting that is probably meant, or where to find all."""
    name = name.replace("-", "_")
    group, _, key = name.partition(".")
    if group == "trainer" and key in inspect.signature(L.Trainer).parameters:
        return f" in conf/, but Lightning's Trainer has it: ++{name}={value} adds it"
    chosen = [word for word in arguments if (conf / word.partition("=")[0]).is_dir() and "=" in word]
    try:
        leaves = list(flat(defaults(config_name, conf, chosen)))
    except HydraException:  # a choice is mistyped, too
        leaves = list(flat(defaults(config_name, conf)))
    prefixes = {".".join(leaf.split(".")[:depth]) for leaf in leaves for depth in range(1, leaf.count(".") + 2)}
    if key and group in prefixes and (others := _choices_with(name, conf)):
        return f" in what is chosen; {' or '.join(others[:3])} has it"
    found = meant(name, {name for name in prefixes if not name.endswith("_")})
    if found is None:
        return "; --help lists the main settings, --cfg job all"
    return f"; did you mean {found}?" if "=" in found or not value else f"; did you mean {found}={value}?"


def _choices_with(name: str, conf: Path) -> list[str]:
    """Return the choices of a setting's group that have the setting."""
    group = name.partition(".")[0]
    found = []
    for path in sorted((conf / group).glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if f"{group}." + name.partition(".")[2] in flat(node, f"{group}."):
            choice = f"[default,{path.stem}]" if group in GROUPS_OF_NODES else path.stem
            found.append(f"{group}={choice}")
    return found


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _refuse(message: str) -> Any:
    raise argparse.ArgumentError(None, message)
