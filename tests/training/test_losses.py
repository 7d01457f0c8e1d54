from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.tokenization import PAD
from minillm.training import cross_entropy


def a_case(padded: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return logits (3, 5, 11) and targets (3, 5), of which the last ones are padding."""
    generator = torch.Generator().manual_seed(padded)
    logits = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64) * 4
    targets = torch.randint(1, 11, (15,), generator=generator)
    targets[15 - padded :] = PAD
    return logits.to(dtype).requires_grad_(), targets.view(3, 5)


def torchs(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)


@pytest.mark.parametrize("padded", [0, 1, 7, 14])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_losses_and_gradients_are_those_of_pytorch(padded: int, smoothing: float) -> None:
    logits, targets = a_case(padded)
    losses = cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(losses.smoothed, torchs(logits, targets, smoothing), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses.loss, torchs(logits, targets).detach(), rtol=1e-12, atol=1e-12)
    assert losses.tokens.item() == 15 - padded
    [gradient] = torch.autograd.grad(losses.smoothed, logits)
    [expected] = torch.autograd.grad(torchs(logits, targets, smoothing), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert not gradient[targets == PAD].any()


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    logits, targets = a_case(4)

    def smoothed(logits: Tensor) -> Tensor:
        return cross_entropy(logits, targets, 0.1).smoothed

    assert torch.autograd.gradcheck(smoothed, logits)


def test_a_case_that_can_be_done_by_hand() -> None:
    # Probabilities 1/2, 1/4, 1/8, 1/8; the second target is padding.
    logits = torch.tensor([[[0.5, 0.25, 0.125, 0.125], [9.0, 0.0, 0.0, 0.0]]]).log()
    losses = cross_entropy(logits, torch.tensor([[2, PAD]]), label_smoothing=0.2)
    two = torch.tensor(2.0).log()
    assert losses.loss.item() == pytest.approx(3 * two.item())
    assert losses.smoothed.item() == pytest.approx((0.8 * 3 + 0.2 * (1 + 2 + 3 + 3) / 4) * two.item())
    assert losses.tokens.item() == 1


def test_a_batch_of_padding_alone_has_loss_zero_and_no_gradient() -> None:
    logits, targets = a_case(15)
    losses = cross_entropy(logits, targets, 0.1)
    assert (losses.loss.item(), losses.smoothed.item(), losses.tokens.item()) == (0, 0, 0)
    [gradient] = torch.autograd.grad(losses.smoothed, logits)
    assert not gradient.any()


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e30, 0.0, -1e30]]])
    assert cross_entropy(logits, torch.tensor([[1]])).loss.item() == pytest.approx(1e30)
    assert cross_entropy(logits[..., [2, 0, 1]], torch.tensor([[1]])).loss.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: Any) -> None:
    logits, targets = a_case(2, dtype)
    losses = cross_entropy(logits, targets, 0.1)
    assert losses.smoothed.dtype == torch.float32
    expected = torchs(logits.detach().double(), targets, 0.1)
    assert losses.smoothed.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_gradient_comes_from_the_reported_loss() -> None:
    logits, targets = a_case(3)
    assert not cross_entropy(logits, targets, 0.1).loss.requires_grad
    assert not cross_entropy(logits, targets, 0.0).loss.requires_grad
