"""The choice as a function: of a machine's speed, a text's size and a time."""

import math
from itertools import pairwise, product
from typing import Any

import pytest

from minillm.checkpoint import outline_network
from minillm.planning.choosing import BPE, MUON, Plan, Text, choose
from minillm.planning.laws import laws
from minillm.planning.machine import Machine
from minillm.planning.shapes import forms

GROUPS = {"tokenizer._target_": BPE, "optimizer._target_": MUON}
# Two cores without AMX.
CORES = Machine("cpu", "32-true", ((64, 5e10), (128, 7e10), (256, 9e10), (512, 1e11)), memory=8 * 2**30)
GPU = Machine("cuda", "bf16-mixed", ((64, 2e12), (256, 2e13), (1024, 2e14)), memory=80 * 2**30)
SECONDS = (30, 180, 600, 3600, 86400, 259200)
MEGABYTES = (0.2, 0.75, 4, 50, 1000)


def text(megabytes: float) -> Text:
    train, other = round(0.7e6 * megabytes), round(0.15e6 * megabytes)
    return Text(train, other, train + 2 * other)


def chosen(megabytes: float, seconds: float, machine: Machine = CORES, **given: Any) -> Plan:
    given = {name.replace("__", "."): value for name, value in given.items()}
    return choose(machine, text(megabytes), seconds, laws(), {**GROUPS, **given})


def value(plan: Plan, name: str) -> Any:
    return plan.settings[name][0]


@pytest.mark.parametrize("machine", [CORES, GPU], ids=["cores", "gpu"])
@pytest.mark.parametrize("megabytes", MEGABYTES)
def test_more_time_gives_no_smaller_network_and_expects_more(megabytes: float, machine: Machine) -> None:
    plans = [chosen(megabytes, seconds, machine) for seconds in SECONDS]
    for less, more in pairwise(plans):
        assert more.expected.weights >= less.expected.weights
        assert more.expected.bits_per_byte <= less.expected.bits_per_byte
        assert value(more, "data.vocab_size") >= value(less, "data.vocab_size")


@pytest.mark.parametrize("machine", [CORES, GPU], ids=["cores", "gpu"])
@pytest.mark.parametrize("seconds", SECONDS)
def test_more_text_is_gone_through_less_often_and_needs_less_against_repeats(seconds: float, machine: Machine) -> None:
    plans = [chosen(megabytes, seconds, machine) for megabytes in MEGABYTES]
    for less, more in pairwise(plans):
        most = laws().most_passes
        assert more.expected.epochs < less.expected.epochs or more.expected.epochs == most == less.expected.epochs
        assert more.expected.bits_per_byte <= less.expected.bits_per_byte
        for name in "data.augmentation.bpe_dropout", "optimizer.weight_decay":
            assert value(more, name) <= value(less, name)
        assert value(more, "model.dropout")["residual"] <= value(less, "model.dropout")["residual"]


@pytest.mark.parametrize(("megabytes", "seconds", "machine"), [*product(MEGABYTES, SECONDS, (CORES, GPU))])
def test_what_is_chosen_can_be_built_and_fits(megabytes: float, seconds: float, machine: Machine) -> None:
    plan = chosen(megabytes, seconds, machine)
    model = {
        name.removeprefix("model."): each for name, (each, _) in plan.settings.items() if name.startswith("model.")
    }
    target = {"_target_": "minillm.models.MiniGPTModern", "max_length": value(plan, "data.max_length")}
    network = outline_network({**target, **model}, value(plan, "data.vocab_size"))
    weights = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 2)
    assert weights == plan.expected.weights
    assert 16 * weights < machine.memory
    if value(plan, "trainer.max_epochs") == -1:
        assert plan.expected.tokens == pytest.approx(seconds * plan.expected.tokens_per_second)
    else:  # the text is learned before the time ends
        assert plan.expected.epochs == value(plan, "trainer.max_epochs") == laws().most_passes
        assert plan.expected.tokens < seconds * plan.expected.tokens_per_second
        assert "too small" in plan.sentences("10min", True)[1]
    assert weights < laws().most_weights(0.7e6 * megabytes)
    steps = plan.expected.tokens / (value(plan, "data.batch_size") * value(plan, "data.max_length"))
    assert steps > 20
    assert all(reason for _, reason in plan.settings.values())


# Width, depth, vocabulary, rows per batch, both learning rates, BPE-dropout, dropout; expected bits per byte.
GOLDEN: list[tuple[float, int, tuple[float, ...], float]] = [
    (0.2, 30, (96, 2, 1800, 5, 0.014, 0.016, 0.036, 0.047), 2.430),
    (0.2, 180, (96, 2, 1800, 12, 0.017, 0.019, 0.1, 0.333), 2.395),
    (0.2, 600, (96, 2, 1800, 21, 0.017, 0.019, 0.1, 0.4), 2.395),
    (0.75, 30, (64, 2, 2800, 5, 0.014, 0.016, 0.0, 0.0), 2.198),
    (0.75, 180, (160, 2, 4700, 7, 0.016, 0.018, 0.022, 0.008), 1.962),
    (0.75, 600, (192, 2, 5400, 12, 0.017, 0.019, 0.079, 0.162), 1.909),
    (4, 30, (64, 2, 2800, 5, 0.014, 0.016, 0.0, 0.0), 2.145),
    (4, 180, (128, 2, 4400, 8, 0.017, 0.019, 0.0, 0.0), 1.836),
    (4, 600, (192, 2, 5400, 12, 0.017, 0.019, 0.0, 0.0), 1.718),
]


@pytest.mark.parametrize(("megabytes", "seconds", "settings", "bits"), GOLDEN)
def test_the_choice_is_what_it_was(megabytes: float, seconds: int, settings: tuple[float, ...], bits: float) -> None:
    plan = chosen(megabytes, seconds)
    names = ["model.embedding_dim", "model.num_layers", "data.vocab_size", "data.batch_size"]
    names += ["optimizer.lr", "optimizer.adamw_lr", "data.augmentation.bpe_dropout"]
    dropout = value(plan, "model.dropout")["residual"]
    assert (*(value(plan, name) for name in names), dropout) == settings
    assert plan.expected.bits_per_byte == pytest.approx(bits, abs=1e-3)


def test_what_is_given_stays_and_the_rest_is_chosen_around_it() -> None:
    plan = chosen(0.75, 180, model__embedding_dim=100, data__vocab_size=777)
    assert value(plan, "model.embedding_dim") == 100
    assert value(plan, "model.num_heads") == 2
    assert value(plan, "data.vocab_size") == 777
    narrower = chosen(0.75, 180, model__embedding_dim=64)
    assert narrower.expected.tokens > plan.expected.tokens
    heads = chosen(0.75, 180, model__num_heads=7)
    assert value(heads, "model.embedding_dim") % 14 == 0
    many = chosen(0.75, 180, data__batch_size=64)
    assert value(many, "data.batch_size") == 64


def test_a_network_with_other_groups_gets_what_they_have() -> None:
    words = chosen(0.75, 180, tokenizer___target_="minillm.tokenization.WordTokenizer", data__vocab_size=5000)
    assert not {"data.vocab_size", "data.augmentation.bpe_dropout"} & set(words.settings)
    adamw = chosen(0.75, 180, optimizer___target_="minillm.training.adamw")
    assert "optimizer.adamw_lr" not in adamw.settings
    assert 1e-4 < value(adamw, "optimizer.lr") < value(chosen(0.75, 180), "optimizer.lr")


def test_a_plan_comes_whole_to_other_processes() -> None:
    plan = chosen(0.75, 180)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_machine_is_faster_with_wider_matrices_and_in_more_processes() -> None:
    assert CORES.flops_per_second(64) == pytest.approx(5e10)
    assert CORES.flops_per_second(32) == pytest.approx(5e10)
    assert CORES.flops_per_second(2048) == pytest.approx(1e11)
    assert CORES.flops_per_second(181) == pytest.approx(math.sqrt(7e10 * 9e10), rel=0.01)
    two = Machine("cpu", "32-true", CORES.speeds, CORES.memory, processes=2)
    assert two.flops_per_second(64) == pytest.approx(1e11)


def test_each_width_has_heads_that_its_channels_fill() -> None:
    for form in forms({}):
        assert form.embedding_dim % (2 * form.num_heads) == 0
        assert form.num_heads % form.num_kv_heads == 0
        assert form.embedding_dim / form.num_heads >= 32


def test_text_that_is_seen_again_teaches_less_than_new_text() -> None:
    bits = laws().bits_per_byte
    assert bits(1e6, 1e6, 1e6) > bits(1e6, 2e6, 1e6) > bits(1e6, 2e6, 2e6)
    assert bits(1e6, 1e6, 1e6) > bits(2e6, 1e6, 1e6)
    assert bits(1e6, 1e6, 1e6) == bits(1e6, 1e6, 5e6)
