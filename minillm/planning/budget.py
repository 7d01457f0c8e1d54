"""`budget=10min` of scripts/train.py: how it changes the command line and the configuration."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from minillm import console
from minillm.arithmetic import flops_per_token
from minillm.checkpoint import build_network
from minillm.command import CONF
from minillm.configuration import flat, instantiate, plain
from minillm.data import TextDataModule
from minillm.durations import parse_duration
from minillm.errors import SettingError
from minillm.files import written_whole
from minillm.launch import agreed, is_further_process
from minillm.planning.choosing import BPE, Plan, Text, choose
from minillm.planning.laws import laws
from minillm.planning.machine import Probe, measure_machine
from minillm.planning.shapes import Form, forms
from minillm.tokenization import SPECIAL_TOKENS
from minillm.training.trainer import has_fast_bfloat16

SHORTEST, LONGEST = timedelta(seconds=30), timedelta(days=3)
BASE = CONF / "experiment" / "modern.yaml"  # whose model, tokenizer, optimizer and schedule a budget has

SWEEPS = ("-m", "--multirun", "hydra.mode=MULTIRUN")
# The network that the machine is measured with.
LENGTH, LAYERS = 256, 2
ROWS, ROWS_ON_GPU = 8, 32


def budget_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the model, tokenizer, optimizer and schedule that a budget starts from.

    They stand before the user's own words, which win. An experiment that the user names replaces them.

    Raises:
        SettingError: it asks for a sweep.
    """
    arguments = list(arguments)
    words = {name: value for name, equals, value in (argument.partition("=") for argument in arguments) if equals}
    budget = words.get("budget", "null")
    if budget in ("", "null") or words.get("resume", "null") not in ("", "null"):
        return arguments
    sweeps = [word for word in arguments if word in SWEEPS or word.startswith("sweep=")]
    if sweeps:
        raise _refused(budget, f"chooses for one run, and {sweeps[0]} asks for many")
    if "experiment" in words:
        return arguments
    return [*(f"{group}={choice}" for group, choice in base_choices().items() if group not in words), *arguments]


def base_choices() -> dict[str, str]:
    """Return the choices of `BASE`, by config group."""
    chosen = yaml.safe_load(BASE.read_text(encoding="utf-8"))["defaults"]
    return {name.removeprefix("override /"): choice for each in chosen for name, choice in each.items()}


def _refused(budget: Any, why: str) -> SettingError:
    return SettingError("budget", budget, f"{why}; with settings of your own, trainer.max_time={budget} ends on time")


def seconds_of(budget: Any) -> float:
    """Return a budget's seconds.

    Raises:
        SettingError: it is no time from 30 s to 3 days.
    """
    try:
        length = parse_duration(budget) if isinstance(budget, str) else timedelta()
    except ValueError:
        length = timedelta()
    if not SHORTEST <= length <= LONGEST:
        raise SettingError("budget", budget, "must be a time from 30s to 3d, such as 10min or 1h30min")
    return length.total_seconds()


def with_checked_budget(config: DictConfig) -> DictConfig:
    """Return the config after checking its budget.

    Args:
        config: as composed, or of a run that is resumed.

    Raises:
        SettingError: the budget is no time within its limits, or is combined with a setting that excludes it.
    """
    if "budget" not in config:  # a run from before this setting existed
        with open_dict(config):
            config.budget = None
    budget = config.budget
    if budget is None or config.resume is not None:
        return config
    seconds_of(budget)
    if config.get("init_from") is not None:
        raise _refused(budget, "chooses for new weights, and init_from brings its own")
    if config.ckpt_path is not None:
        raise SettingError("budget", budget, "chooses settings, and ckpt_path goes on with others; leave out one")
    return config


def is_to_choose(config: DictConfig) -> bool:
    """Return whether there is a budget to choose for; a resumed run keeps what it chose at its start."""
    return config.budget is not None and config.resume is None


def given_names(config: DictConfig) -> set[str]:
    """Return the full names of the settings, or of the groups of settings, that the user has decided.

    These are the names on the command line; the content of a chosen file that varies another one, such as
    ``model=minigpt_base``; and what an experiment on the command line changes.
    """
    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    names: set[str] = set()
    for word in OverridesParser.create().parse_overrides(words):
        group, choice = word.key_or_group, word.value()
        if not (CONF / group).is_dir():
            names.add(group)
        elif isinstance(choice, str) and base_choices().get(group) != choice:
            names |= set(_varied(CONF / group / f"{choice}.yaml", group))
    others = [word for word in words if not word.startswith("experiment=")]
    if len(others) < len(words):
        searched = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath")]
        without = flat(plain(compose(str(hydra.job.config_name), overrides=[*searched, *others])))
        composed = flat(plain(config))
        names |= {name for name in composed if without.get(name, ...) != composed[name]}
    return names


@dataclass(frozen=True)
class _Decided:
    """Which settings a config has, and which of them the user has decided.

    Args:
        settings: full names of all settings.
        names: what the user has decided, see `given_names`.
    """

    settings: Collection[str]
    names: Collection[str]

    @classmethod
    def about(cls, config: DictConfig) -> Self:
        return cls(flat(plain(config)).keys(), given_names(config))

    def is_there(self, name: str) -> bool:
        return any(f"{setting}.".startswith(f"{name}.") for setting in self.settings)

    def is_given(self, name: str) -> bool:
        return any(f"{name}.".startswith(f"{other}.") or other.startswith(f"{name}.") for other in self.names)

    def values(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the decided settings, and all class names."""
        there = flat(settings)
        given = {name: value for name, value in there.items() if self.is_given(name) or name.endswith("._target_")}
        if given["tokenizer._target_"] != BPE:  # the laws know BPE vocabularies alone
            given["data.vocab_size"] = there["data.vocab_size"]
        return given


def _varied(path: Path, group: str) -> Iterator[str]:
    """Yield the settings in the file of a choice that varies another choice."""
    if group not in base_choices() or not path.is_file():
        return
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if set(content.pop("defaults", [])) - {"base"}:
        yield from flat(content, f"{group}.")


def with_form(config: DictConfig) -> DictConfig:
    """Return a config whose model fits what the user has decided, so that all else can be checked before the choice."""
    config, decided = deepcopy(config), _Decided.about(config)
    form = forms(decided.values(plain(config)))[0]
    with open_dict(config):
        for name in "embedding_dim", "num_heads", "num_kv_heads":
            if decided.is_there(f"model.{name}") and not decided.is_given(f"model.{name}"):
                config.model[name] = getattr(form, name)
    return config


def planned(config: DictConfig, data: TextDataModule, trainer: L.Trainer) -> DictConfig:
    """Return the config with the chosen settings; show them, and save the config in the run's folder.

    The first of a run's processes measures the machine, reads the text's size, and chooses for all.

    Args:
        config: as composed.
        data: of that config; its corpus is prepared if needed.
        trainer: of that config.
    """
    settings, decided = plain(config), _Decided.about(config)
    given = decided.values(settings)
    chosen = Plan.from_json(agreed("plan", lambda: _choice(settings, given, data, trainer).to_json()))
    chosen.settings["trainer.max_time"] = (config.budget, "the budget")
    rows = []
    config = deepcopy(config)
    with open_dict(config):
        for name, (value, reason) in chosen.settings.items():
            if not decided.is_there(name):
                continue
            if decided.is_given(name):
                rows.append((name, OmegaConf.select(config, name), console.GIVEN))
            else:
                OmegaConf.update(config, name, value, merge=False)
                rows.append((name, value, reason))
    console.show_plan(config.budget, rows, chosen.sentences(config.budget, bool(config.get("evaluation"))))
    file = Path(config.paths.output_dir) / ".hydra" / "config.yaml"
    if file.is_file() and not is_further_process():
        with written_whole(file) as temporary:
            temporary.write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    return config


def _choice(settings: dict[str, Any], given: Mapping[str, Any], data: TextDataModule, trainer: L.Trainer) -> Plan:
    """Measure the machine, read the text's size, and choose."""
    data.corpus.prepare()
    sizes = {name: split["bytes"] for name, split in data.corpus.manifest["splits"].items()}
    text = Text(sizes["train"], sizes["val"], sum(sizes.values()))
    device = trainer.strategy.root_device
    precisions = ["32-true", "bf16-mixed"] if has_fast_bfloat16(device.type) else ["32-true"]
    if "trainer.precision" in given:
        precisions = [given["trainer.precision"]]

    def probe(form: Form) -> Probe:
        entries = laws().vocab_size(form.weights, form.embedding_dim, text.train_bytes)
        return _probe(settings, given, form, given.get("data.vocab_size", entries), data, device)

    machine = measure_machine(probe, forms(given), device, precisions, trainer.world_size)
    return choose(machine, text, seconds_of(settings["budget"]), laws(), given)


def _probe(
    settings: dict[str, Any],
    given: Mapping[str, Any],
    form: Form,
    vocab_size: int,
    data: TextDataModule,
    device: torch.device,
) -> Probe:
    """Return a training of the configured model in a form, small enough to measure in a moment.

    It has no dropout and no label smoothing unless they are given: with the defaults' a step takes up to half as long
    again as with what is chosen.
    """
    settings = deepcopy(settings)
    model = settings["model"]
    sizes = {name: getattr(form, name) for name in ("embedding_dim", "num_heads", "num_kv_heads")}
    sizes |= {"num_layers": LAYERS, "max_length": LENGTH, "tie_head": True}
    if not any(f"{name}.".startswith("model.dropout.") for name in given):
        sizes["dropout"] = 0.0
    model.update({name: value for name, value in sizes.items() if name in model})
    if "training.label_smoothing" not in given and "label_smoothing" in settings["training"]:
        settings["training"]["label_smoothing"] = 0.0
    network = build_network(model, vocab_size).to(device)
    config = OmegaConf.create(settings)
    parts = {name: instantiate(config, name) for name in ("optimizer", "scheduler")}
    module = instantiate(config, "training", network=network, tokenizer=data.unfitted_tokenizer, **parts).to(device)
    shape = (ROWS_ON_GPU if device.type == "cuda" else ROWS, LENGTH)
    ids = torch.randint(len(SPECIAL_TOKENS), vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    documents = (torch.arange(LENGTH, device=device) >= LENGTH // 2).long().expand(shape)
    none = torch.zeros((), dtype=torch.long)
    batch = {"inputs": ids, "targets": ids, "documents": documents, "bytes": none, "unknown_bytes": none}
    flops = flops_per_token(network, LAYERS, form.embedding_dim, LENGTH) * ids.numel()
    return Probe(module, batch, flops)
