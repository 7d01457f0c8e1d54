"""The linear layer is PyTorch's, whichever library computes it."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from minillm.models.linear import Linear
from minillm.training.module import missing_for_compile


def layers(inputs: int, outputs: int, bias: bool) -> tuple[Linear, nn.Linear]:
    """Return the project's layer and PyTorch's with the same weights, in float64."""
    torch.manual_seed(0)
    ours = Linear(inputs, outputs, bias=bias)
    exact = nn.Linear(inputs, outputs, bias=bias).double()
    exact.load_state_dict(ours.state_dict())
    return ours, exact


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (64, 48), (2, 5, 48), (0, 48)])
def test_without_gradients_it_equals_float64(shape: tuple[int, ...], bias: bool) -> None:
    """One row, many, more dimensions, none at all."""
    ours, exact = layers(48, 20, bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), exact(x.double()).float(), rtol=1e-5, atol=1e-6)
        part = torch.randn(*shape[:-1], 3 * 48)[..., 48:96]  # not contiguous
        torch.testing.assert_close(ours(part), exact(part.double()).float(), rtol=1e-5, atol=1e-6)


def test_gradients_are_pytorchs() -> None:
    """Training goes PyTorch's way."""
    ours, exact = layers(48, 20, bias=True)
    x = torch.randn(7, 48)
    ours(x).square().sum().backward()
    exact(x.double()).square().sum().backward()
    for mine, reference in zip(ours.parameters(), exact.parameters(), strict=True):
        assert reference.grad is not None
        torch.testing.assert_close(mine.grad, reference.grad.float(), rtol=1e-4, atol=1e-5)


def test_autocast_and_other_types_stay() -> None:
    """What autocast or the caller chose is what it computes in."""
    ours, _ = layers(48, 20, bias=True)
    x = torch.randn(7, 48)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
        assert ours.double()(x.double()).dtype == torch.float64


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")
def test_onednn_computes_float32() -> None:
    """Without gradients the product is oneDNN's: a new PyTorch that names its operation otherwise shows here."""
    ours, _ = layers(48, 20, bias=True)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as found:
        ours(torch.randn(7, 48))
    assert any("mkldnn" in event.key for event in found.key_averages())


@pytest.mark.skipif(missing_for_compile(torch.device("cpu")) is not None, reason="torch.compile lacks a compiler")
def test_it_can_be_compiled_where_no_gradient_is_wanted() -> None:
    ours, exact = layers(48, 20, bias=True)
    x = torch.randn(7, 48)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(ours)(x), exact(x.double()).float(), rtol=1e-5, atol=1e-6)
