"""The training loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from minillm.tokenization import PAD


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
    is_target = targets != PAD
    tokens = is_target.sum()
    log_sum_exp = logits.logsumexp(dim=-1)
    target_logits = logits.gather(-1, targets[:, None]).squeeze(-1)
    nats = log_sum_exp - target_logits
    # A batch without targets has loss 0, not 0/0.
    count = tokens.clamp(min=1)
    loss = nats.where(is_target, 0.0).sum() / count
    if label_smoothing == 0:
        return TokenLosses(loss, loss.detach(), tokens)
    uniform = (log_sum_exp - logits.mean(dim=-1)).where(is_target, 0.0).sum() / count
    return TokenLosses((1 - label_smoothing) * loss + label_smoothing * uniform, loss.detach(), tokens)
