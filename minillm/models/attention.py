"""Scaled dot-product attention on its fastest exact path."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.models.dropout import Dropout
from minillm.models.placing import WithinDocuments

MANY = 64  # matrices of keys
FLEX_BLOCK = 128  # queries and keys that FlexAttention takes at once


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | WithinDocuments | None, dropout: Dropout
) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V with dropout on the weights (Vaswani et al. 2017).

    On the processor, training takes batched matrix products: PyTorch's kernel needs two to four times as long there,
    with dropout and without. So does the newest token of many cached rows, whose keys and values come from memory.
    Compiled training on a GPU takes FlexAttention for packed documents, which skips what no token sees.
    All else goes to PyTorch's kernel.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D); K divides H, and H / K query heads side by side share one (Ainslie et al. 2023).
        value: (B, K, S, D).
        mask: (B or 1, 1, T, S) bool, true where a query may look; packed documents, each to itself, T = S; None: at
            all keys up to its own place, T = S or 1.
        dropout: of the attention weights.

    Returns:
        (B, H, T, D).
    """
    batch, heads, length, dim = query.shape
    groups = key.size(1)
    if isinstance(mask, WithinDocuments):
        if query.device.type == "cuda" and _has_flex_attention(query, dropout):
            return within_documents(query, key, value, mask)
        mask = mask.dense
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


def _has_flex_attention(query: Tensor, dropout: Dropout) -> bool:
    """Return whether FlexAttention may be used: it knows no dropout, and is fast in compiled code alone.

    In PyTorch 2.11, on an H200, its compiled code was wrong where no gradient was wanted, and could not be made for
    lengths that are no multiple of its blocks.
    """
    drops = dropout.training and dropout.p > 0
    whole_blocks = query.size(2) % FLEX_BLOCK == 0
    return torch.compiler.is_compiling() and torch.is_grad_enabled() and whole_blocks and not drops


def within_documents(query: Tensor, key: Tensor, value: Tensor, documents: WithinDocuments) -> Tensor:
    """Return what `attention` does for packed documents without dropout, by FlexAttention (Dong et al. 2024)."""
    from torch.nn.attention.flex_attention import flex_attention

    shared = key.size(1) < query.size(1)
    attended: Tensor = flex_attention(query, key, value, block_mask=documents.blocks, enable_gqa=shared)
    return attended
