"""Starting a training from existing weights: `init_from=PATH` of scripts/train.py."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from minillm.checkpoint import find_checkpoint, read_checkpoint
from minillm.configuration import flat, plain
from minillm.errors import OutsideError, SettingError
from minillm.language_model import LanguageModel, load
from minillm.tokenization import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

MAX_DEFAULT_LENGTH = 1024  # tokens of context unless set: the cost of attention grows with the square
# Settings of the model that may differ from those of the weights.
FREE_SETTINGS = ("model.dropout", "model.max_length")


def origin(init_from: str, trusted: tuple[str, ...] = ()) -> LanguageModel:
    """Return the model that a training starts from, on the CPU.

    Args:
        init_from: a checkpoint's path, ``latest``, or a folder in transformers' format.
        trusted: as for `minillm.load`.

    Raises:
        SettingError: it cannot be loaded.
    """
    try:
        return _opened(str(find_checkpoint(init_from)), trusted)
    except SettingError as error:
        where = f"{error.value} " if str(error.value) != init_from else ""
        raise SettingError("init_from", init_from, f"{where}{error.advice}") from error
    except OutsideError as error:
        raise SettingError("init_from", init_from, str(error)) from error


@lru_cache(1)  # settings, weights and the comparison use it
def _opened(path: str, trusted: tuple[str, ...]) -> LanguageModel:
    return load(path, device="cpu", trusted=trusted)


def initialized(config: DictConfig) -> DictConfig:
    """Return the config of a run with the model, tokenizer and vocabulary of the model that it starts from.

    Args:
        config: as composed, or of a resumed run. It is returned unchanged without ``init_from``, and in a resumed run,
            whose settings are complete.

    Raises:
        SettingError: the model cannot be loaded, or the command line sets another model, tokenizer or vocabulary.
    """
    if "init_from" not in config:  # a run from before this setting existed
        with open_dict(config):
            config.init_from = None
    start = config.init_from
    if not isinstance(start, str) or config.ckpt_path is not None:
        return config
    composed = plain(config)
    model = origin(start, (str((composed.get("model") or {}).get("_target_")),))
    node = model.config.get("model")
    if not isinstance(node, dict):
        raise SettingError("init_from", start, "has no configuration of its network")
    tokenizer = model.tokenizer
    kind = f"minillm.tokenization.{type(tokenizer).__name__}"
    own = {
        "model": {**node},
        "tokenizer": {"_target_": kind, "digits": tokenizer.digits, "names": tokenizer.names},
        "data": {"vocab_size": len(tokenizer)},
    }
    changed = _changed(composed)
    fixed = flat(own)
    for key in changed:
        is_fixed = key.startswith(("model.", "tokenizer.")) or key == "data.vocab_size"
        is_free = key in FREE_SETTINGS or key.startswith("model.dropout.")
        value = flat(composed)[key]
        if is_fixed and not is_free and fixed.get(key, value) != value:
            setting = key.removesuffix("._target_")
            advice = f"the weights of init_from={start} have {fixed[key]}, which cannot change; remove the setting"
            raise SettingError(setting, value, advice)
    length = composed["data"]["max_length"]
    if "data.max_length" not in changed:
        length = min(model.max_length, MAX_DEFAULT_LENGTH)
    elif isinstance(length, int) and length > model.max_length:
        advice = f"the context of init_from={start} is {model.max_length} tokens; {model.max_length} at most"
        raise SettingError("data.max_length", length, advice)
    if any(key.startswith("model.dropout") for key in changed):
        own["model"]["dropout"] = composed["model"]["dropout"]
    own["model"]["max_length"] = length
    with open_dict(config):
        config.init_from = str(find_checkpoint(start))
        for group in "model", "tokenizer":
            config[group] = OmegaConf.create(own[group])
        config.data.vocab_size, config.data.max_length = len(tokenizer), length
    return config


def _changed(composed: dict[str, Any]) -> list[str]:
    """Return the settings that the command line, or an experiment on it, has set."""
    hydra = HydraConfig.get()
    searched = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath")]
    default, after = flat(plain(compose(str(hydra.job.config_name), overrides=searched))), flat(composed)
    named = {word.partition("=")[0].lstrip("+") for word in hydra.overrides.task}
    return [key for key in after if key in named or default.get(key, ...) != after[key]]


def initial_tokenizer(config: DictConfig) -> Tokenizer:
    """Return the tokenizer of a run that starts from weights; fitting does not change it.

    A resumed run takes it from its checkpoint, since the model that it started from may not exist any more.
    """
    if config.ckpt_path is None:
        return load_tokenizer(origin(config.init_from, (config.model._target_,)).tokenizer.to_json()).kept()
    return load_tokenizer(read_checkpoint(config.ckpt_path)["tokenizer"]).kept()


def fill(network: nn.Module, init_from: str) -> None:
    """Load the weights of the model that a training starts from into a network.

    Learned positions beyond the run's ``data.max_length`` are dropped.
    """
    start = origin(init_from, (f"{type(network).__module__}.{type(network).__qualname__}",)).network.state_dict()
    expected = network.state_dict()
    if (positions := expected.get("position_embedding.weight")) is not None:
        start["position_embedding.weight"] = start["position_embedding.weight"][: len(positions)]
    with torch.no_grad():
        network.load_state_dict({name: weight.clone() for name, weight in start.items()})
    log.info("starts from the weights of %s", Path(init_from))


def origin_if_at_hand(config: DictConfig) -> LanguageModel | None:
    """Return the model that a run started from; None, with a warning, if it does not exist any more."""
    try:
        return origin(config.init_from, (config.model._target_,))
    except SettingError as error:
        log.warning("before and after are not compared: %s", error)
        return None
