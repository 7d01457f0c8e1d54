"""Scaled dot-product attention by the fastest exact kernel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.models import processor
from minillm.models.dropout import Dropout
from minillm.models.masks import DocumentMask

MIN_MATRICES_FOR_BMM = 64  # B * K: from here on, bmm decodes a token faster than PyTorch's attention kernel on a CPU
FLEX_BLOCK = 128  # FlexAttention's block size, in queries and in keys


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | DocumentMask | None, dropout: Dropout
) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V with dropout on the weights (Vaswani et al. 2017).

    - Training on a CPU uses batched matrix products (bmm): PyTorch's attention kernel takes two to four times as long,
      with and without dropout.
    - Decoding many rows on a CPU uses bmm, too: it is bound by memory bandwidth, and bmm is faster there.
    - Compiled training on a GPU with packed documents uses FlexAttention, which skips fully masked blocks.
    - Everything else uses PyTorch's attention kernel.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D); K divides H, and H / K adjacent query heads share a key head (Ainslie et al. 2023).
        value: (B, K, S, D).
        mask: (B or 1, 1, T, S) bool, true where a query attends to a key; a `DocumentMask` for packed documents,
            T = S; None: causal, T = S or 1.
        dropout: of the attention weights.

    Returns:
        (B, H, T, D).
    """
    batch, heads, length, _ = query.shape
    groups = key.size(1)
    if isinstance(mask, DocumentMask):
        if query.device.type == "cuda" and _has_flex_attention(query, dropout):
            return flex_attention_within_documents(query, key, value, mask)
        mask = mask.dense
    if processor.is_used(query) and (dropout.training or (length == 1 and batch * groups >= MIN_MATRICES_FOR_BMM)):
        return processor.attention(query, key, value, mask, dropout)
    p = dropout.p if dropout.training else 0.0
    causal, shared = mask is None and bool(length > 1), groups < heads  # bool: length is symbolic in an export
    return F.scaled_dot_product_attention(query, key, value, mask, p, is_causal=causal, enable_gqa=shared)


def _has_flex_attention(query: Tensor, dropout: Dropout) -> bool:
    """Return whether FlexAttention can be used: it has no dropout, and it is fast only in compiled code.

    With PyTorch 2.11 on an H200, its compiled code gave wrong results without gradients, and it did not compile for
    lengths that are not a multiple of its block size.
    """
    drops = dropout.training and dropout.p > 0
    whole_blocks = query.size(2) % FLEX_BLOCK == 0
    return torch.compiler.is_compiling() and torch.is_grad_enabled() and whole_blocks and not drops


def flex_attention_within_documents(query: Tensor, key: Tensor, value: Tensor, documents: DocumentMask) -> Tensor:
    """Return `attention` for packed documents without dropout, by FlexAttention (Dong et al. 2024)."""
    from torch.nn.attention.flex_attention import flex_attention

    shared = key.size(1) < query.size(1)
    attended: Tensor = flex_attention(query, key, value, block_mask=documents.blocks, enable_gqa=shared)
    return attended
