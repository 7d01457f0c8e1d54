import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minillm.errors import SettingError
from minillm.models import MiniGPT
from minillm.training import Muon, adamw
from minillm.training.optimizers import by_role, orthogonalize

SMALL = {"vocab_size": 50, "max_length": 24, "embedding_dim": 32, "num_layers": 2, "num_heads": 4}


def a_network(dtype: torch.dtype = torch.float32) -> MiniGPT:
    torch.manual_seed(0)
    return MiniGPT(**SMALL).to(dtype)


def draw_gradients(network: nn.Module, step: int) -> None:
    """Give every parameter the gradient of this step."""
    generator = torch.Generator().manual_seed(step)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


def quintic(gradient: Tensor, steps: int) -> Tensor:
    """Orthogonalize through the singular values, on which the iteration acts as a polynomial."""
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ vh


def test_each_parameter_has_the_role_of_its_place() -> None:
    network = a_network()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    roles = {
        role: {names[id(p)] for p in parameters} for role, parameters in by_role(network.named_parameters()).items()
    }
    assert roles["embeddings"] == {"embedding.weight", "head.weight"}
    assert {name.removeprefix("blocks.1.") for name in roles["matrices"] if name.startswith("blocks.1.")} == {
        *("attention.query_key_value.weight", "attention.projection.weight"),
        *("feedforward.0.weight", "feedforward.2.weight"),
    }
    assert all(network.get_parameter(name).ndim == 1 for name in roles["vectors"])
    assert sum(map(len, roles.values())) == len(names)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_moves_matrices_as_a_plain_computation_does_and_the_rest_as_adamw(nesterov: bool) -> None:
    network, expected = a_network(torch.float64), a_network(torch.float64)
    muon = Muon(network.named_parameters(), lr=0.02, adamw_lr=0.003, nesterov=nesterov, weight_decay=0.1)
    roles = by_role(expected.named_parameters())
    average = [torch.zeros_like(parameter) for parameter in roles["matrices"]]
    others = torch.optim.AdamW(roles["embeddings"], lr=0.003, weight_decay=0.1, betas=(0.9, 0.95))
    others.add_param_group({"params": roles["vectors"], "weight_decay": 0.0})
    for step in range(4):
        draw_gradients(network, step)
        muon.step()
        draw_gradients(expected, step)
        others.step()
        for number, parameter in enumerate(roles["matrices"]):
            assert parameter.grad is not None
            average[number] = 0.95 * average[number] + 0.05 * parameter.grad
            update = 0.95 * average[number] + 0.05 * parameter.grad if nesterov else average[number]
            rows, columns = parameter.shape
            direction = quintic(update, 5) * max(1, rows / columns) ** 0.5
            parameter.data = parameter.data * (1 - 0.02 * 0.1) - 0.02 * direction
    for (name, actual), wanted in zip(network.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-10, msg=name)


def test_muon_agrees_with_pytorchs_own_but_for_rounding() -> None:
    network, expected = a_network(), a_network()
    muon = Muon(network.named_parameters(), lr=0.02, weight_decay=0.1)
    matrices = by_role(expected.named_parameters())["matrices"]
    theirs = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1)
    for step in range(3):
        for some, optimizer in ((network, muon), (expected, theirs)):
            draw_gradients(some, step)
            optimizer.step()
    for actual, wanted in zip(by_role(network.named_parameters())["matrices"], matrices, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=2e-3)  # theirs is bfloat16; a step is 0.02 long


def test_orthogonalized_matrices_have_singular_values_near_1() -> None:
    torch.manual_seed(0)
    for shape in (1, 64, 64), (3, 96, 32), (2, 32, 96):
        matrices = torch.randn(shape, dtype=torch.float64)
        values = torch.linalg.svdvals(orthogonalize(matrices, steps=5))
        large = torch.linalg.svdvals(matrices) > 0.02 * torch.linalg.matrix_norm(matrices)[..., None]
        assert values[large].min() > 0.6
        assert values.max() < 1.3
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


def test_adamw_is_pytorchs() -> None:
    network, expected = a_network(torch.float64), a_network(torch.float64)
    ours, theirs = adamw(network.named_parameters(), lr=0.01), torch.optim.AdamW(expected.parameters(), lr=0.01)
    for step in range(3):
        for some, optimizer in ((network, ours), (expected, theirs)):
            draw_gradients(some, step)
            optimizer.step()
    for actual, wanted in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [partial(adamw, decay="matrices"), Muon, partial(adamw, decay="all")])
def test_weight_decay_leaves_out_norms_and_biases_unless_told_otherwise(make: Callable[..., Any]) -> None:
    network = a_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = make(network.named_parameters(), lr=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing but the decay moves a weight
    optimizer.step()
    decays_all = getattr(make, "keywords", {}).get("decay") == "all"
    for name, parameter in network.named_parameters():
        if before[name].any():
            assert torch.equal(parameter, before[name]) == (parameter.ndim < 2 and not decays_all), name


@pytest.mark.parametrize("make", [Muon, partial(adamw, decay="matrices")])
def test_an_optimizer_goes_on_from_a_file_bit_for_bit(make: Callable[..., Any]) -> None:
    network, resumed = a_network(), a_network()
    optimizer = make(network.named_parameters())
    for step in range(4):
        if step == 2:
            file = io.BytesIO()
            torch.save((network.state_dict(), optimizer.state_dict()), file)
        draw_gradients(network, step)
        optimizer.step()
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again = make(resumed.named_parameters())
    again.load_state_dict(state)
    for step in (2, 3):
        draw_gradients(resumed, step)
        again.step()
    for actual, expected in zip(resumed.parameters(), network.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_a_parameter_without_a_gradient_stays() -> None:
    network = a_network()
    names = "head.weight", "blocks.0.attention.projection.weight"
    without = [network.get_parameter(name) for name in names]
    before = [parameter.detach().clone() for parameter in without]
    muon = Muon(network.named_parameters(), weight_decay=0.1)
    draw_gradients(network, 0)
    for parameter in without:
        parameter.grad = None
    muon.step()
    for parameter, weight in zip(without, before, strict=True):
        assert torch.equal(parameter, weight)


def test_a_schedule_scales_both_learning_rates() -> None:
    muon = Muon(a_network().named_parameters(), lr=0.02, adamw_lr=0.004)
    scheduler = torch.optim.lr_scheduler.LambdaLR(muon, lambda step: 0.5)
    assert [group["lr"] for group in muon.param_groups] == [0.01, 0.002, 0.002]
    assert scheduler.get_last_lr() == [0.01, 0.002, 0.002]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "lr=-1: must be at least 0"),
        ({"adamw_lr": float("nan")}, "adamw_lr=nan: must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: must be at least 0"),
        ({"momentum": 1.0}, "momentum=1.0: must be at least 0 and under 1"),
        ({"ns_steps": 0}, "ns_steps=0: must be at least 1"),
    ],
)
def test_a_setting_that_muon_cannot_use_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Muon(a_network().named_parameters(), **settings)


def test_muon_refuses_a_network_whose_embedding_it_cannot_tell_from_its_matrices() -> None:
    with pytest.raises(SettingError, match="needs a network with an `embedding`"):
        Muon(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)).named_parameters())
