"""The training loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from minillm.tokenization import PAD

# Logits at once, in elements: on the processor as many as its cache serves well, elsewhere enough to fill the device.
CHUNK_ELEMENTS = {"cpu": 2**22}
CHUNK_ELEMENTS_ELSEWHERE = 2**27


class TokenLosses(NamedTuple):
    """Cross-entropies over the targets that are not padding, in nats a token.

    Args:
        smoothed: scalar mean with label smoothing: what the gradient comes from.
        loss: scalar mean without it: what is reported.
        tokens: int64 scalar, targets that are not padding.
    """

    smoothed: Tensor
    loss: Tensor
    tokens: Tensor


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> TokenLosses:
    """Return the mean cross-entropy with and without label smoothing (Szegedy et al. 2016), padding left out.

    Smoothing takes the share ``label_smoothing`` from the target and spreads it evenly over the vocabulary. Both
    losses come from one log-sum-exp: -log p(y) = lse - z_y, and the mean of -log p over the vocabulary is
    lse - mean(z).

    Args:
        logits: (..., V), any float type; the arithmetic is float32 or finer.
        targets: (...) int64, [PAD] where nothing is to be predicted.
        label_smoothing: share in [0, 1).
    """
    logits = logits.flatten(0, -2)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    targets = targets.flatten()
    log_sum_exp = logits.logsumexp(dim=-1)
    target_logits = logits.gather(-1, targets[:, None]).squeeze(-1)
    return _mean_losses(log_sum_exp, target_logits, logits.mean(dim=-1), targets != PAD, label_smoothing)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> TokenLosses:
    """Return what `cross_entropy` returns for the logits ``hidden @ weight.T``, which are never held all at once.

    The logits are made, used and left a chunk of rows at a time, and so is their gradient: each chunk's softmax is
    multiplied with the weight and with the hidden states on the way, so that backward has only to scale (as in Hsu et
    al. 2024, "Liger Kernel"). What label smoothing adds to the gradient is the same for each row, -smoothing times the
    mean weight, and for each entry of the vocabulary; it costs no pass over the logits.

    Under autocast the matrix products and the softmax are in its type, as for a linear head; sums and losses are in
    float32 or finer.

    Args:
        hidden: (..., D).
        weight: (V, D), of the head.
        targets: (...) int64, [PAD] where nothing is to be predicted.
        label_smoothing: share in [0, 1).
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    arguments = hidden.flatten(0, -2), weight, targets.flatten(), label_smoothing, dtype, with_gradient
    return TokenLosses(*_LinearCrossEntropy.apply(*arguments))


def _mean_losses(
    log_sum_exp: Tensor, target_logits: Tensor, mean_logits: Tensor, is_target: Tensor, label_smoothing: float
) -> TokenLosses:
    tokens = is_target.sum()
    # A batch without targets has loss 0, not 0/0.
    count = tokens.clamp(min=1)
    loss = (log_sum_exp - target_logits).where(is_target, 0.0).sum() / count
    if label_smoothing == 0:
        return TokenLosses(loss, loss.detach(), tokens)
    uniform = (log_sum_exp - mean_logits).where(is_target, 0.0).sum() / count
    return TokenLosses((1 - label_smoothing) * loss + label_smoothing * uniform, loss.detach(), tokens)


def _log_sum_exp(logits: Tensor, softmax: Tensor, target_logits: Tensor, target_probabilities: Tensor) -> Tensor:
    """Return log(sum(exp(z))) of each row (N,), from its softmax and without another pass of exponentials."""
    exact = target_logits.dtype
    # On the processor a look at the values costs nothing; a GPU would have to wait for it.
    if logits.device.type == "cpu" and target_probabilities.min() > torch.finfo(logits.dtype).tiny:
        return target_logits - target_probabilities.to(exact).log()
    # The greatest probability is 1 / sum(exp(z - max z)): never too small for a logarithm.
    return logits.amax(dim=-1).to(exact) - softmax.amax(dim=-1).to(exact).log()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        label_smoothing: float,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> TokenLosses:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        ctx.types = hidden.dtype, weight.dtype
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        is_target = targets != PAD
        mean_weight = weight.mean(dim=0, dtype=exact)
        log_sum_exp, target_logits = hidden.new_empty(2, len(hidden), dtype=exact)
        if with_gradient:
            counted = hidden * is_target[:, None]  # a row of padding weighs nothing in the weight's gradient
            hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight, dtype=exact)
        rows = max(1, CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS_ELSEWHERE) // len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                chunk = slice(start, start + rows)
                # Indexed as pairs: gather and scatter copy the whole matrix on the processor.
                chosen = torch.arange(len(targets[chunk]), device=hidden.device), targets[chunk]
                logits = hidden[chunk] @ weight.T
                softmax = logits.softmax(dim=-1)
                probability = softmax[chosen]
                target_logits[chunk] = logits[chosen]
                log_sum_exp[chunk] = _log_sum_exp(logits, softmax, target_logits[chunk], probability)
                if with_gradient:
                    softmax[chosen] = probability - (1 - label_smoothing)
                    hidden_gradient[chunk] = softmax @ weight
                    weight_gradient += softmax.T @ counted[chunk]
            mean_logits = hidden.to(exact) @ mean_weight
        losses = _mean_losses(log_sum_exp, target_logits, mean_logits, is_target, label_smoothing)
        if with_gradient:
            hidden_gradient -= label_smoothing * mean_weight
            weight_gradient -= label_smoothing / len(weight) * counted.sum(dim=0, dtype=exact)
            ctx.save_for_backward(hidden_gradient, weight_gradient, is_target, losses.tokens)
        ctx.mark_non_differentiable(losses.loss, losses.tokens)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, is_target, tokens = ctx.saved_tensors
        scale = gradient / tokens.clamp(min=1)
        hidden_dtype, weight_dtype = ctx.types
        by_row = torch.where(is_target, scale, 0.0)[:, None]
        return (hidden_gradient * by_row).to(hidden_dtype), (weight_gradient * scale).to(weight_dtype), *[None] * 4
