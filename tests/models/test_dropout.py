import pytest
import torch
from torch import Tensor

from minillm.models.dropout import Dropout


def dropped(p: float, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return Dropout(p)(x)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_share_is_dropped_and_the_rest_is_scaled(p: float, dtype: torch.dtype) -> None:
    n = 1_000_000
    x = dropped(p, torch.ones(n, dtype=dtype))
    assert x.dtype == dtype
    assert (x == 0).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    assert x[x != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4 if dtype != torch.bfloat16 else 4e-3)


def test_the_expectation_is_exact_whatever_the_probability_is_rounded_to() -> None:
    p = 0.1  # kept: 58982 of 65536
    scale = dropped(p, torch.ones(1000, dtype=torch.float64)).max().item()
    assert scale * round((1 - p) * 65536) / 65536 == pytest.approx(1, abs=1e-15)


def test_each_element_is_dropped_by_itself() -> None:
    # Neighbours, and elements four apart, share no bits of a random number: their masks are uncorrelated.
    kept = (dropped(0.3, torch.ones(400_000)) != 0).double()
    for distance in (1, 2, 3, 4, 8, 16, 64):
        assert abs(torch.corrcoef(torch.stack((kept[:-distance], kept[distance:])))[0, 1].item()) < 0.01


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(7, 11, 3, dtype=torch.float64).requires_grad_()  # 231 elements, no multiple of four
    y = dropped(0.4, x)
    [gradient] = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, (y / x).detach())
    assert 0 < (gradient == 0).sum() < 231


def test_the_seed_decides_and_the_draws_differ() -> None:
    x = torch.ones(1000)
    assert dropped(0.5, x).equal(dropped(0.5, x))
    dropout = Dropout(0.5)
    assert not dropout(x).equal(dropout(x))


def test_without_training_and_at_zero_nothing_happens() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_a_tensor_with_other_strides_keeps_its_places() -> None:
    x = torch.arange(1.0, 25.0).view(4, 6).T
    y = dropped(0.5, x)
    assert y.shape == (6, 4)
    assert y[y != 0].equal(2 * x[y != 0])
