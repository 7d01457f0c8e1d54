"""Scaled dot-product attention on its fastest exact path."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.models.dropout import Dropout

MANY = 64  # matrices of keys


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V with dropout on the weights (Vaswani et al. 2017).

    On the processor, training takes batched matrix products: PyTorch's kernel needs two to four times as long there,
    with dropout and without. So does the newest token of many cached rows, whose keys and values come from memory. All
    else goes to PyTorch's kernel.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D); K divides H, and H / K query heads side by side share one (Ainslie et al. 2023).
        value: (B, K, S, D).
        mask: (B or 1, 1, T, S) bool, true where a query may look; None: at all keys up to its own place, T = S or 1.
        dropout: of the attention weights.

    Returns:
        (B, H, T, D).
    """
    batch, heads, length, dim = query.shape
    groups = key.size(1)
    newest_of_many = length == 1 and batch * groups >= MANY
    if query.device.type != "cpu" or not (dropout.training or newest_of_many):
        p = dropout.p if dropout.training else 0.0
        causal, shared = mask is None and bool(length > 1), groups < heads  # bool: of any length, when exported
        return F.scaled_dot_product_attention(query, key, value, mask, p, is_causal=causal, enable_gqa=shared)
    if mask is None:
        mask = torch.ones(length, key.size(2), dtype=torch.bool).tril(key.size(2) - length)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    bias = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -math.inf)
    # The heads that share keys are rows of one matrix.
    rows = query.reshape(batch * groups, -1, dim)
    bias = bias.view(-1, 1, length, key.size(2)).repeat(1, 1, heads // groups, 1)
    bias = bias.expand(batch, groups, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, rows, key.flatten(0, 1).transpose(1, 2), alpha=dim**-0.5)
    return torch.bmm(dropout(scores.softmax(dim=-1)), value.flatten(0, 1)).view(query.shape)
