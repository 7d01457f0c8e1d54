"""MiniGPT: the small pre-LayerNorm transformer of the original work.

- Embeddings are scaled by sqrt(dim) and added to fixed sinusoidal positions (Vaswani et al. 2017).
- LayerNorm precedes each sublayer and the head (Xiong et al. 2020).
- The head's weight is not tied to the embedding.
- Several documents can share a row: a token attends only within its document, and positions restart in each.
- A key/value cache: decoding a token costs one token's computation.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.models.attention import attention
from minillm.models.cache import KeyValueCache, positions_and_mask
from minillm.models.decoder import Decoder
from minillm.models.dropout import Dropout, DropoutRates, dropout_rates
from minillm.models.linear import Linear
from minillm.models.masks import DocumentMask
from minillm.models.sizes import check_network_fits, check_sizes, divisors


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Return the sinusoidal position encodings of Vaswani et al. (2017), section 3.5, (length, dim) float32.

    Even columns are sines, odd columns cosines, with wavelengths from 2 pi to 10000 * 2 pi.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    angle = position * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()


class CausalSelfAttention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = Dropout(dropout)
        self.query_key_value = Linear(dim, 3 * dim)
        self.projection = Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        """Map (B, T, dim) to (B, T, dim); ``mask`` as for `attention`."""
        batch, length, dim = x.shape
        q, k, v = self.query_key_value(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B,H,T,D)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        x = attention(q, k, v, mask, self.dropout)
        return self.projection(x.transpose(1, 2).reshape(batch, length, dim))


class Block(nn.Module):
    """Attention and feed-forward sublayers, each with LayerNorm before it and a residual connection around it."""

    def __init__(self, dim: int, num_heads: int, dropout: DropoutRates, gelu: Literal["none", "tanh"] = "none") -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalSelfAttention(dim, num_heads, dropout.attention)
        self.feedforward_norm = nn.LayerNorm(dim)
        activation = nn.Sequential(nn.GELU(gelu), Dropout(dropout.feedforward))
        self.feedforward = nn.Sequential(Linear(dim, 4 * dim), activation, Linear(4 * dim, dim))
        self.dropout = Dropout(dropout.residual)

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, cache: KeyValueCache | None, layer: int) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, cache, layer))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class MiniGPT(Decoder):
    """The original's decoder-only language model.

    Args:
        vocab_size: entries of the tokenizer's vocabulary.
        max_length: tokens of context in training and decoding; longer inputs work, too, since the position encodings
            are computed.
        embedding_dim: width of the residual stream; even, and a multiple of ``num_heads``.
        num_layers: blocks.
        num_heads: attention heads per block.
        dropout: probability for the embedded input, the attention weights and the sublayers' outputs; or a mapping
            with one for each, see `minillm.models.dropout.DropoutRates`.

    Raises:
        SettingError: a size that cannot be built.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int = 128,
        embedding_dim: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float | Mapping[str, float] = 0.1,
    ) -> None:
        super().__init__()
        check_sizes(max_length=max_length, embedding_dim=embedding_dim, num_layers=num_layers, num_heads=num_heads)
        if embedding_dim % 2:
            raise SettingError("embedding_dim", embedding_dim, f"must be even, such as {embedding_dim + 1}")
        if embedding_dim % num_heads:
            advice = f"must divide embedding_dim={embedding_dim}; one of {divisors(embedding_dim)} would do"
            raise SettingError("num_heads", num_heads, advice)
        rates = dropout_rates(dropout)
        # The position encodings are computed in float64 from several intermediate tensors: 6 numbers per element.
        outside = (2 * vocab_size + 6 * max_length) * embedding_dim
        check_network_fits(vocab_size, embedding_dim, num_layers, 12 * embedding_dim**2, outside)
        self.max_length = max_length
        self.num_heads = num_heads
        self.cached_heads, self.cached_dim = num_heads, embedding_dim // num_heads
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = Dropout(rates.embedding)
        self.blocks = nn.ModuleList(Block(embedding_dim, num_heads, rates) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embedding_dim)
        self.head = Linear(embedding_dim, vocab_size, bias=False)
        # Not in the checkpoint: it is computed, and it grows with the longest input.
        self.register_buffer("positions", sinusoidal_positions(max_length, embedding_dim), persistent=False)
        self.positions: Tensor
        self.apply(self._initialize)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # `hidden` multiplies by sqrt(dim): unit variance then, comparable to the position encodings.
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the input of the head, (B, T, dim): the normalized output of the last block; see `forward`."""
        end = ids.size(1) if cache is None else cache.length + ids.size(1)
        if end > len(self.positions):
            self.positions = sinusoidal_positions(2 * end, self.embedding.embedding_dim).to(self.positions)
        positions, mask = positions_and_mask(ids, documents, cache)
        positions = F.embedding(positions, self.positions)
        x = self.dropout(self.embedding(ids) * math.sqrt(self.embedding.embedding_dim) + positions)
        return self.run_blocks(x, cache, mask)
