from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minillm.tokenization import PAD
from minillm.training import cross_entropy, linear_cross_entropy, losses


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
    result = cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(result.smoothed, torchs(logits, targets, smoothing), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.loss, torchs(logits, targets).detach(), rtol=1e-12, atol=1e-12)
    assert result.tokens.item() == 15 - padded
    [gradient] = torch.autograd.grad(result.smoothed, logits)
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
    result = cross_entropy(logits, torch.tensor([[2, PAD]]), label_smoothing=0.2)
    two = torch.tensor(2.0).log()
    assert result.loss.item() == pytest.approx(3 * two.item())
    assert result.smoothed.item() == pytest.approx((0.8 * 3 + 0.2 * (1 + 2 + 3 + 3) / 4) * two.item())
    assert result.tokens.item() == 1


def test_a_batch_of_padding_alone_has_loss_zero_and_no_gradient() -> None:
    logits, targets = a_case(15)
    result = cross_entropy(logits, targets, 0.1)
    assert (result.loss.item(), result.smoothed.item(), result.tokens.item()) == (0, 0, 0)
    [gradient] = torch.autograd.grad(result.smoothed, logits)
    assert not gradient.any()


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e30, 0.0, -1e30]]])
    assert cross_entropy(logits, torch.tensor([[1]])).loss.item() == pytest.approx(1e30)
    assert cross_entropy(logits[..., [2, 0, 1]], torch.tensor([[1]])).loss.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: Any) -> None:
    logits, targets = a_case(2, dtype)
    result = cross_entropy(logits, targets, 0.1)
    assert result.smoothed.dtype == torch.float32
    expected = torchs(logits.detach().double(), targets, 0.1)
    assert result.smoothed.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_gradient_comes_from_the_reported_loss() -> None:
    logits, targets = a_case(3)
    assert not cross_entropy(logits, targets, 0.1).loss.requires_grad
    assert not cross_entropy(logits, targets, 0.0).loss.requires_grad


# The loss of a linear head, without its logits.


def a_head(padded: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (3, 50, 16), a weight (1000, 16) and targets (3, 50), of which the last are padding."""
    generator = torch.Generator().manual_seed(padded)
    hidden = torch.randn(3, 50, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(1000, 16, generator=generator, dtype=torch.float64) * 0.7
    targets = torch.randint(1, 1000, (150,), generator=generator)
    targets[150 - padded :] = PAD
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets.view(3, 50)


@pytest.fixture(params=[10_000, 2**22], ids=["in chunks of 10 rows", "in one chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("padded", [0, 4, 149])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_a_linear_heads_losses_and_gradients_are_those_of_its_logits(
    padded: int, smoothing: float, dtype: torch.dtype, tolerance: float
) -> None:
    hidden, weight, targets = a_head(padded, dtype)
    ours = linear_cross_entropy(hidden, weight, targets, smoothing)
    plain = cross_entropy(hidden @ weight.T, targets, smoothing)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(
        torch.autograd.grad(3 * ours.smoothed, (hidden, weight)),
        torch.autograd.grad(3 * plain.smoothed, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.usefixtures("chunks")
def test_a_linear_heads_loss_in_bfloat16_is_as_far_off_as_the_plain_one() -> None:
    hidden, weight, targets = a_head(dtype=torch.float32)
    exact = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, 0.1).smoothed, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, 0.1)
        plain = cross_entropy(hidden @ weight.T, targets, 0.1)
    assert ours.smoothed.dtype == torch.float32
    assert ours.loss.item() == pytest.approx(plain.loss.item(), rel=1e-3)
    ours_off, plain_off = (
        [((a - b).norm() / b.norm()).item() for a, b in zip(gradients, exact, strict=True)]
        for gradients in (torch.autograd.grad(loss.smoothed, (hidden, weight)) for loss in (ours, plain))
    )
    assert all(a < 1.5 * b < 0.01 for a, b in zip(ours_off, plain_off, strict=True))


def test_no_tensor_of_the_size_of_all_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 20_000)
    hidden, weight, targets = a_head(dtype=torch.float32)
    with LargestTensor() as plain:
        cross_entropy(hidden @ weight.T, targets).smoothed.backward()
    with LargestTensor() as ours:
        linear_cross_entropy(hidden, weight, targets).smoothed.backward()
    assert (plain.elements, ours.elements) == (150_000, 20_000)


class LargestTensor(TorchDispatchMode):
    """Watches the sizes of the tensors that operations return."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_improbable_targets_have_their_true_loss() -> None:
    # exp(-200) is 0 in float32.
    hidden, weight = torch.tensor([[[200.0], [1.0]]], requires_grad=True), torch.tensor([[0.0], [0.0], [1.0]])
    result = linear_cross_entropy(hidden, weight, torch.tensor([[1, 1]]))
    assert result.loss.item() == pytest.approx((200 + torch.tensor([0.0, 0, 1]).logsumexp(0).item()) / 2)
    [gradient] = torch.autograd.grad(result.smoothed, hidden)
    assert gradient.flatten().tolist() == pytest.approx([0.5, torch.tensor([0.0, 0, 1]).softmax(0)[2].item() / 2])


def test_a_linear_head_with_nothing_to_predict_has_loss_zero_and_no_gradient() -> None:
    hidden, weight, targets = a_head(padded=150)
    result = linear_cross_entropy(hidden, weight, targets, 0.1)
    assert (result.loss.item(), result.smoothed.item(), result.tokens.item()) == (0, 0, 0)
    assert not any(gradient.any() for gradient in torch.autograd.grad(result.smoothed, (hidden, weight)))


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, targets = a_head()
    with torch.no_grad():
        result = linear_cross_entropy(hidden, weight, targets, 0.1)
    assert not result.smoothed.requires_grad
    assert result.smoothed.item() == pytest.approx(linear_cross_entropy(hidden, weight, targets, 0.1).smoothed.item())
