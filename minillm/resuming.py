"""Resuming a training: its checkpoint, its settings, and which of them may change."""

import functools
import logging
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from minillm.checkpoint import read_checkpoint
from minillm.command import CONF, spelled
from minillm.configuration import flat, plain
from minillm.errors import SettingError
from minillm.files import written_whole
from minillm.launch import is_further_process
from minillm.signals import NOTHING_YET

log = logging.getLogger(__name__)

# Settings that may change when a run is resumed; they take effect from there on. All others decide what is learned:
# mixed, the result would be neither the old training nor the new one.
MAY_CHANGE = (
    # This command's own
    "resume",
    "ckpt_path",
    # Where things are
    "paths.*",
    "data.data_dir",
    "data.source.path",  # for moved text; other text is detected by its vocabulary
    "trainer.default_root_dir",
    "callbacks.*.dirpath",
    "callbacks.pruning.*",
    # The machine. Another device draws other random numbers and rounds differently, so the weights will differ.
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.started_by",
    "trainer.precision",
    "trainer.deterministic",
    "trainer.benchmark",
    "trainer.activation_checkpointing",
    "training.compile",
    "data.num_workers",
    "data.source.processes",
    "data.source.timeout",
    "data.source.retries",
    "data.source.contact",
    "data.source.pages_per_request",
    "data.source.streaming",
    # The length. The learning rate's schedule spans the whole training: from the next step on the rate is that of a run
    # of the new length. So it jumps where the curve falls to an end (linear, cosine, wsd), and a finished run, at a
    # rate of 0, learns again.
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.max_time",
    "trainer.max_tokens",
    "callbacks.elapsed_time.*",
    "callbacks.early_stopping._target_",
    "callbacks.early_stopping.patience",
    "callbacks.early_stopping.min_delta",
    # What is measured, and how often
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.limit_val_batches",
    "trainer.limit_test_batches",
    "trainer.num_sanity_val_steps",
    "trainer.log_every_n_steps",
    "trainer.enable_*",
    "trainer.detect_anomaly",
    "trainer.profiler",
    "optimized_metric",
    "evaluation.*",
    "logger.*",
    "callbacks.bias_evaluation.*",
    "callbacks.bleu_evaluation.*",
    "callbacks.learning_rate.*",
    "callbacks.memory.*",
    "callbacks.progress_bar.*",
    "callbacks.text_samples.*",
    "callbacks.throughput.*",
    "callbacks.timely_validation.*",
    "data.max_test_tokens",
    "callbacks.timely_validation.*",
    # When checkpoints are written; monitor and mode stay, since they decide which is the best so far
    "callbacks.checkpointing.every_*",
)

# The settings that a choice such as `trainer=gpu` decides: the machine, not the length in the same file.
OF_A_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "started_by")
# Groups of several objects: a choice decides which objects there are, not their settings.
GROUPS_OF_MANY = ("callbacks", "logger")

MISSING = object()
Leaves = dict[str, Any]


def find_run(resume: str, outputs: str | Path = "outputs") -> Path:
    """Return the folder of the run that a setting means: a folder, or ``latest``: of those with a last.ckpt the newest.

    Args:
        resume: the setting; a checkpoint in the folder will do as well.
        outputs: where the runs are.

    Raises:
        SettingError: there is no such run, or it has no checkpoint.
    """
    if resume == "latest":
        places = ("train/*/checkpoints/last.ckpt", "multirun/*/*/checkpoints/last.ckpt")
        found = [path for place in places for path in Path(outputs).glob(place)]
        if not found:
            advice = f"no run under {outputs} has a last.ckpt; start one: {spelled('train')}"
            raise SettingError("resume", resume, advice)
        return max(found, key=lambda path: path.stat().st_mtime).parents[1]
    folder = Path(resume)
    if folder.suffix == ".ckpt" and folder.parent.name == "checkpoints":
        folder = folder.parents[1]
    if not folder.is_dir():
        raise SettingError(
            "resume", resume, "does not exist; give a run's folder, such as outputs/train/..., or latest"
        )
    if not last_checkpoint(folder).is_file():
        advice = "holds no checkpoints/last.ckpt, so there is nothing to go on from; run its command again"
        raise SettingError("resume", resume, advice)
    return folder


def last_checkpoint(folder: str | Path) -> Path:
    """Return the checkpoint from which a run resumes.

    That is ``last.ckpt``; of a run that was killed between its first validation and the end of its first epoch, or that
    lost it, ``best.ckpt``, which says as well from where training goes on.
    """
    last = Path(folder) / "checkpoints" / "last.ckpt"
    best = last.with_name("best.ckpt")
    return best if best.is_file() and not last.is_file() else last


def how_to_go_on(folder: str | Path) -> str:
    """Return how to resume a stopped run."""
    last, shown = last_checkpoint(folder), os.path.relpath(folder)
    if not last.is_file():
        return NOTHING_YET
    return f"{os.path.relpath(last)} is kept; to go on: {spelled('train')} resume={shlex.quote(shown)}"


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line on which ``resume=RUN`` uses the run's folder.

    Raises:
        SettingError: no such run, or a command line that does more than resume it.
    """
    arguments = list(arguments)
    places = [number for number, argument in enumerate(arguments) if argument.startswith("resume=")]
    # Further processes of the same run get the command line of the first, which is complete.
    if not places or is_further_process():
        return arguments
    resume = re.sub(r"""(?s)^(['"])(.*)\1$""", r"\2", arguments[places[-1]].removeprefix("resume="))
    if resume in ("", "null"):
        return arguments
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in ("-m", "--multirun"):
            raise SettingError("resume", resume, "goes on with one run; leave out --multirun")
        if name == "ckpt_path" and value != "null":
            raise SettingError("ckpt_path", value, f"resume={resume} goes on from its run's last.ckpt; leave out one")
        if name == "hydra.run.dir":
            advice = f"resume={resume} goes on in the run's own folder; ckpt_path={last_checkpoint(resume)} in another"
            raise SettingError(name, value, advice)
    folder = find_run(resume)
    arguments[places[-1]] = f"resume={folder}"
    # Hydra's record of the run is kept, see `record`.
    return [*arguments, f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]


def completed(config: DictConfig) -> DictConfig:
    """Return the config of a resumed run: that of its last checkpoint, with the command line's changes.

    Args:
        config: as composed. Without ``resume`` it is returned as it is.

    Raises:
        SettingError: the command line changes what has to stay (`MAY_CHANGE`), the checkpoint is damaged, or it names a
            class that neither the project's configuration nor the command line does.
    """
    if config.get("resume") is None:
        return config
    hydra = HydraConfig.get()
    if hydra.mode is RunMode.MULTIRUN:
        raise SettingError("resume", config.resume, "goes on with one run, not with a sweep")
    folder = Path(config.resume)
    checkpoint = last_checkpoint(folder)
    saved = _read(checkpoint, "resume", folder)
    words = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    composed = plain(config)
    # What the words change is what differs from the configuration without them, and what they name.
    searched = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath")]
    without = plain(compose(str(hydra.job.config_name), overrides=searched))
    own = _moved(saved, composed["paths"]["output_dir"])
    own |= {"resume": str(folder), "ckpt_path": str(checkpoint)}
    before, after, default = flat(own), flat(composed), flat(without)
    named = list(dict.fromkeys(_named(words, before, after)))
    changed = [key for key in {**default, **after} if default.get(key, MISSING) != after.get(key, MISSING)]
    taken = [key for key in dict.fromkeys([*named, *changed]) if key not in ("resume", "ckpt_path")]
    taken = [key for key in taken if after.get(key, MISSING) != before.get(key, MISSING)]
    if not any(word.key_or_group == "resume" for word in words):
        taken = []  # a job that is run again has the command line that its run began with
    _check(taken, before, after, f"the run in {folder}", "leave it out, or begin a new run with it")
    said = {value for key, value in after.items() if key.endswith("_target_")}
    _check_targets(own, said | _targets_of_the_project(), "")
    for key in taken:
        _set(own, key, after.get(key, MISSING))
    return OmegaConf.create(_literal(own))


def check_resumable(ckpt_path: str | Path, config: dict[str, Any]) -> None:
    """Check that a run can resume from a checkpoint with a config: only settings in `MAY_CHANGE` differ.

    Args:
        ckpt_path: the setting.
        config: the new run's configuration, as plain values.

    Raises:
        SettingError: the file is no whole checkpoint, or a setting has another value.
    """
    before, after = flat(_read(ckpt_path, "ckpt_path", ckpt_path)), flat(config)
    if any(key.startswith("callbacks.learning_rate_finder.") for key in before):
        after["optimizer.lr"] = before["optimizer.lr"]  # was found, and stays
    different = [key for key in {**before, **after} if before.get(key, MISSING) != after.get(key, MISSING)]
    with_words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    words = {word.partition("=")[0].lstrip("+~") for word in with_words}
    different.sort(
        key=lambda key: (not any(f"{key}.".startswith(f"{word}.") for word in words), "._target_" not in key)
    )
    run = Path(ckpt_path).parent.parent
    _check(different, before, after, str(ckpt_path), f"resume={run} keeps all settings; a new run takes others")


def check_vocabulary(ckpt_path: str | Path, tokenizer_json: str) -> None:
    """Check that the data has the checkpoint's vocabulary.

    Args:
        ckpt_path: the setting.
        tokenizer_json: the new run's tokenizer.

    Raises:
        SettingError: it is another one.
    """
    if tokenizer_json != read_checkpoint(ckpt_path)["tokenizer"]:
        advice = "has another vocabulary: the text has changed since; put it back, or start a new run"
        raise SettingError("ckpt_path", ckpt_path, advice)


def record(config: DictConfig) -> None:
    """Update the run's ``.hydra/``, from which others read its settings and command line."""
    if is_further_process():
        return
    folder = Path(config.resume) / ".hydra"
    words = list(HydraConfig.get().overrides.task)
    new = [word for word in words if not word.startswith("resume=")]
    if len(new) == len(words):
        new = []  # the job's own, see `completed`
    folder.mkdir(exist_ok=True)
    log.info("goes on from %s%s", config.ckpt_path, f" with {' '.join(new)}" if new else "")
    overrides = folder / "overrides.yaml"
    said = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.is_file() else None
    for path, content in (
        (folder / "config.yaml", OmegaConf.to_yaml(config)),
        (overrides, yaml.dump([*(said or []), *new])),
    ):
        with written_whole(path) as file:
            file.write_text(content, encoding="utf-8")


def _read(checkpoint: str | Path, setting: str, value: str | Path) -> dict[str, Any]:
    """Return a checkpoint's configuration; an error names the setting that led to it."""
    try:
        return deepcopy(dict(read_checkpoint(checkpoint)["config"]))
    except SettingError as error:
        where = "" if str(value) == str(checkpoint) else f"{checkpoint} "
        raise SettingError(setting, value, f"{where}{error.advice}") from error


def _check(changes: Iterable[str], before: Leaves, after: Leaves, whose: str, advice: str) -> None:
    """Refuse the first change that is not allowed."""
    refused = [key for key in changes if not any(fnmatchcase(key, pattern) for pattern in MAY_CHANGE)]
    if not refused:
        return
    key, *others = refused
    was, value = (leaves.get(key, MISSING) for leaves in (before, after))
    is_other = "was not there" if was is MISSING else f"was {was}"
    more = f" (as do {len(others)} more that differ)" if others else ""
    shown = "left out" if value is MISSING else value
    told = f"{is_other} in {whose}, and stays while it goes on{more}; {advice}"
    raise SettingError(key.removesuffix("._target_"), shown, told)


def _named(words: Iterable[Override], before: Leaves, after: Leaves) -> Iterable[str]:
    """Yield the settings on the command line."""
    for word in words:
        name = word.key_or_group
        below = [key for key in {**after, **before} if f"{key}.".startswith(f"{name}.")]
        if "." in name or word.is_delete() or name not in (*GROUPS_OF_MANY, "trainer"):
            yield from below  # one setting, or with the name of one object, such as the model, all of its settings
        elif name == "trainer":
            yield from (f"{name}.{key}" for key in OF_A_TRAINER)
        else:
            there = [{key.split(".")[1] for key in leaves if key.startswith(f"{name}.")} for leaves in (before, after)]
            yield from (key for key in below if (key.split(".")[1] in there[0]) != (key.split(".")[1] in there[1]))


def _moved(config: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a run's config with the paths of its present folder."""
    old = str(config["paths"]["output_dir"])

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: move(child) for key, child in value.items()}
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return folder + value.removeprefix(old)
        return value

    return dict(move(config))


def _literal(value: Any) -> Any:
    """Return values without interpolations: they were resolved when the run began."""
    if isinstance(value, dict):
        return {key: _literal(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a setting by its full name; if missing, remove it and groups that become empty."""
    *path, last = key.split(".")
    nodes = [config]
    for name in path:
        nodes.append(nodes[-1].setdefault(name, {}))
    if value is not MISSING:
        nodes[-1][last] = value
        return
    nodes[-1].pop(last, None)
    for node, name in zip(reversed(nodes[1:-1]), reversed(path[1:]), strict=True):
        if node[name] == {}:
            del node[name]


def _check_targets(node: Any, known: set[Any], name: str) -> None:
    """Refuse a class that only the checkpoint names: it can come from anywhere, and to import the class runs code."""
    if isinstance(node, list):
        for number, child in enumerate(node):
            _check_targets(child, known, f"{name}.{number}")
    if not isinstance(node, dict):
        return
    if "_target_" in node and node["_target_"] not in known:
        target = node["_target_"]
        advice = "is named by the checkpoint alone, so it was not imported"
        raise SettingError(f"{name}._target_", target, f"{advice}; if it is yours, say it: ++{name}._target_={target}")
    for key, child in node.items():
        _check_targets(child, known, f"{name}.{key}" if name else str(key))


@functools.cache
def _targets_of_the_project() -> frozenset[str]:
    """Return the names of all classes and functions in conf/."""
    files = (path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    return frozenset(name for text in files for name in re.findall(r"_target_: *(\S+)", text))
