"""The training loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from minillm.tokenization import PAD

# Logits per chunk: on a CPU few enough for its cache, on other devices enough to keep them busy.
CHUNK_ELEMENTS = {"cpu": 2**22}
CHUNK_ELEMENTS_ELSEWHERE = 2**27


class TokenLosses(NamedTuple):
    """Cross-entropies over the targets that are not padding, in nats per token.

    Args:
        smoothed: scalar mean with label smoothing, for the gradient.
        loss: scalar mean without label smoothing, for reports.
        tokens: int64 scalar, number of targets that are not padding.
    """

    smoothed: Tensor
    loss: Tensor
    tokens: Tensor


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> TokenLosses:
    """Return the mean cross-entropy with and without label smoothing (Szegedy et al. 2016), without padding.

    Label smoothing moves the share ``label_smoothing`` of the target distribution from the true token to a uniform
    distribution over the vocabulary. Both losses use one log-sum-exp: -log p(y) = lse - z_y, and the mean of -log p
    over the vocabulary is lse - mean(z).

    Args:
        logits: (..., V), any float type; computed in float32 or float64.
        targets: (...) int64, [PAD] at padding.
        label_smoothing: in [0, 1).
    """
    logits = logits.flatten(0, -2)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    targets = targets.flatten()
    log_sum_exp = logits.logsumexp(dim=-1)
    target_logits = logits.gather(-1, targets[:, None]).squeeze(-1)
    return _mean_losses(log_sum_exp, target_logits, logits.mean(dim=-1), targets != PAD, label_smoothing)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> TokenLosses:
    """Return the `cross_entropy` of the logits ``hidden @ weight.T`` without holding all logits in memory.

    Logits and their gradient are computed for one chunk of rows at a time. The forward pass already multiplies each
    chunk's softmax with the weight and the hidden states, so the backward pass only scales the gradients (as in Hsu et
    al. 2024, "Liger Kernel"). Label smoothing adds -smoothing times the mean weight to the gradient of each hidden
    state, and the same for each entry of the vocabulary; it needs no pass over the logits.

    Under autocast, the matrix products and the softmax use its dtype, as for a linear head; sums and losses use float32
    or float64.

    Args:
        hidden: (..., D).
        weight: (V, D), of the head.
        targets: (...) int64, [PAD] at padding.
        label_smoothing: in [0, 1).
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
    """Return log(sum(exp(z))) of each row (N,), from its softmax and without computing exponentials again."""
    exact = target_logits.dtype
    # On a CPU this condition costs nothing; a GPU would have to synchronize.
    if logits.device.type == "cpu" and target_probabilities.min() > torch.finfo(logits.dtype).tiny:
        return target_logits - target_probabilities.to(exact).log()
    # The largest probability is 1 / sum(exp(z - max z)): it never underflows.
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
            counted = hidden * is_target[:, None]  # padding adds nothing to the weight's gradient
            hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight, dtype=exact)
        rows = max(1, CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS_ELSEWHERE) // len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                chunk = slice(start, start + rows)
                # Indexing, since gather and scatter copy the whole matrix on a CPU.
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
