"""Any value of any type for any setting: it works, or it is refused in one line."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minillm.checkpoint import build_network
from minillm.cli import declared
from minillm.command import CONF
from minillm.configuration import check_types, instantiate, plain
from minillm.errors import MiniLLMError
from minillm.training import seed_everything

# What a script composes, beside the choices that have settings of their own.
COMPOSED = [
    ("train", "callbacks=[default,ema,learning_rate_finder]"),
    ("train", "model=minigpt_modern", "optimizer=muon", "scheduler=wsd", "tokenizer=bpe", "data=wikipedia"),
    ("train", "model=gpt2", "scheduler=cosine", "data=files"),
    ("prepare", "data=dump"),
    ("prepare", "data=hub"),
    ("evaluate", "data=sample"),
    ("generate",),
    ("compare",),
]
# The types of the settings in the root configs, as the scripts declare them.
ROOT: dict[str, dict[str, Any]] = {
    "train": {"seed": int, "ckpt_path": str | None, "optimized_metric": str},
    "prepare": {"seed": int},
    "evaluate": {"ckpt": str, "seed": int, "trusted": list[str]},
    "generate": {"ckpt": str, "prompt": str, "max_new_tokens": int, "seed": int | None, "trusted": list[str]},
    "compare": {
        "runs": str | list[str],
        "sort_by": str,
        "metrics": list[str],
        "over": str | None,
        "failed": bool,
        "output_dir": str | None,
    },
}
# What becomes one line and a status in minillm/cli.py.
SHOWN = (MiniLLMError, OmegaConfBaseException, HydraException, MisconfigurationException)

HARD: tuple[Any, ...] = (
    *(0, 1, -1, 10**8, -(10**8), 10**18, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 10**5000),
    *(0.0, -0.5, 0.5, 1.5, 1e308, 5e-324, math.inf, -math.inf, math.nan),
    *("", " ", "null", "1", "no", "\0", "\x1b[31m", "\udcff", "ñ\N{GRINNING FACE}", "../..", "/dev/null/x", "a" * 5000),
    *("${", "${seed}", "${nothing}", "${oc.env:HOME}", "???", "{a}", "%s", "minillm", "minillm.nothing", "os.sep"),
    *([], {}, [[]], [None], [math.nan], {"a": 1}, {"_target_": "minillm.nothing"}, {"_target_": 3}),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(HARD)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
EACH = 16  # each setting meets one in so many of the hard values
QUIET = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False
)


def leaves(node: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the place of each setting, and of each node."""
    if name:
        yield name
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, (*name, key))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, Any]]]:
    """Each script's composed config with its interpolations, and its name."""
    GlobalHydra.instance().clear()
    folder = tmp_path_factory.mktemp("run")
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for script, *choices in COMPOSED:
            config = cast(dict[str, Any], OmegaConf.to_container(compose(script, choices)))
            if "paths" in config:
                config["paths"] = {"data_dir": str(folder / "data"), "output_dir": str(folder)}
            found.append((script, config))
    return found


def start(script: str, config: DictConfig, group: str) -> None:
    """Do what a script does before it needs data: check everything, make what belongs to a group."""
    check_types(config, ROOT[script], declared(script))
    if script == "train" and group == "seed":
        seed_everything(config.seed)
    if group in ("data", "tokenizer", "paths", "seed") and "data" in config:
        tokenizer = instantiate(config, "tokenizer") if "tokenizer" in config else None
        if tokenizer:
            instantiate(config, "data", tokenizer=tokenizer)
    if group in ("model", "data") and "model" in config:
        with torch.device("meta"):
            build_network(plain(config)["model"], 400)
    if group in ("optimizer", "scheduler", "training"):
        optimizer, scheduler = instantiate(config, "optimizer"), instantiate(config, "scheduler")
        layers = {"embedding": torch.nn.Embedding(5, 3), "middle": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 5)}
        network = torch.nn.ModuleDict(layers)
        instantiate(config, "training", network=network, tokenizer=None, optimizer=optimizer, scheduler=scheduler)
    for name in ("callbacks", "logger", "evaluation", "sampling", "trainer"):
        if name in config and group in (name, "seed", "paths"):
            instantiate(config, name)


def outcome(script: str, config: dict[str, Any], place: tuple[str, ...], value: Any) -> str | None:
    """Set a value and start; return what is shown, None where it works. Any other exception goes on."""
    changed = copy.deepcopy(config)
    node = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    try:
        start(script, OmegaConf.create(changed), place[0])
    except SHOWN as error:
        return str(error)
    return None


def test_the_settings_as_they_are_work(configs: list[tuple[str, dict[str, Any]]]) -> None:
    for script, config in configs:
        for group in config:
            wrong = outcome(script, config, (group,), config[group])
            assert wrong is None or "path=None: must name" in wrong


@pytest.fixture(scope="module")
def places(configs: list[tuple[str, dict[str, Any]]]) -> list[tuple[int, tuple[str, ...]]]:
    """All settings, each once, and in which config they are."""
    found: dict[tuple[str, ...], int] = {}
    for number, (_, config) in enumerate(configs):
        for place in leaves(config):
            found.setdefault(place, number)
    return [(number, place) for place, number in found.items()]


def test_any_value_of_any_type_works_or_is_refused_in_one_line(
    configs: list[tuple[str, dict[str, Any]]], places: list[tuple[int, tuple[str, ...]]]
) -> None:
    @settings(QUIET, max_examples=800)
    @given(st.sampled_from(places), VALUES)
    def check(place: tuple[int, tuple[str, ...]], value: Any) -> None:
        number, name = place
        outcome(*configs[number], name, value)

    check()


def test_each_setting_survives_hard_values(
    configs: list[tuple[str, dict[str, Any]]], places: list[tuple[int, tuple[str, ...]]]
) -> None:
    for turn, (number, place) in enumerate(places):
        for value in HARD[turn % EACH :: EACH]:
            outcome(*configs[number], place, value)


@pytest.mark.parametrize(
    "value", ["100000000", "-1", "nan", "inf", "[]", "{a:1}", "' '", "null", "ñ", "1e400", "\x1b[31m"]
)
@pytest.mark.parametrize("setting", ["data.min_length", "data.split"])
def test_on_the_command_line_it_is_one_line_and_status_2(
    run_script: Callable[..., Any], setting: str, value: str
) -> None:
    ended = run_script("prepare", "data.num_articles=20", f"{setting}={value}")
    assert ended.status == 2, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
