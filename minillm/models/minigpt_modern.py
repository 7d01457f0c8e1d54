"""A modern MiniGPT: a small Qwen3 (Yang et al. 2025).

- RMSNorm before each sublayer and before the head (Zhang and Sennrich 2019); no biases.
- Rotary position embeddings (Su et al. 2021): queries and keys are rotated by angles proportional to the position, so
  attention depends only on distances. Positions need not restart in each document, and have no maximum.
- Grouped-query attention (Ainslie et al. 2023): several query heads share a key/value head.
- Queries and keys are normalized (Henry et al. 2020), which keeps attention from saturating at high learning rates.
- SwiGLU feed-forward (Shazeer 2020).
- Layers with the same input are computed as one matrix product, with the gain of the norm before them folded in. Their
  weights stay separate parameters, since Muon orthogonalizes each. `minillm.export.forms` has transformers' names.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.models.attention import attention
from minillm.models.cache import KeyValueCache, positions_and_mask
from minillm.models.decoder import Decoder
from minillm.models.dropout import Dropout, dropout_rates
from minillm.models.linear import Linear, linear
from minillm.models.masks import DocumentMask
from minillm.models.normalization import RMSNorm
from minillm.models.sizes import check_network_fits, check_sizes, divisors


def rotary_angles(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of the rotary embedding.

    Channels i and i + dim/2 are rotated by position * theta^(-2i/dim). The sines of the first half are negated, so the
    rotated x is x * cosine + x.roll(dim/2) * sine.

    Args:
        positions: (T,) int64.
        dim: channels of a head.
        theta: base; the longest wavelength is almost 2 pi theta tokens.

    Returns:
        Cosines and sines, (T, dim) float32 each.
    """
    frequency = theta ** (torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / -dim)
    angle = positions[:, None] * frequency
    return torch.cat((angle.cos(), angle.cos()), dim=-1), torch.cat((-angle.sin(), angle.sin()), dim=-1)


def normed_linear(x: Tensor, norm: RMSNorm, *layers: Linear) -> Tensor:
    """Return the concatenated outputs of several linear layers of the normalized x, by one matrix product.

    Args:
        x: (..., dim).
        norm: its weight is multiplied into the layers' matrices, or into x if x has fewer vectors than they have rows.
        layers: without biases.
    """
    if torch.compiler.is_exporting() or x.shape[:-1].numel() < sum(layer.out_features for layer in layers):
        x = norm(x)
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return linear(norm.normalize(x), torch.cat([layer.weight for layer in layers]) * norm.weight)


class GroupedQueryAttention(nn.Module):
    """Causal self-attention; ``num_heads / num_kv_heads`` query heads share a key/value head."""

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.norm = RMSNorm(dim)
        self.query = Linear(dim, num_heads * head_dim, bias=False)
        self.key = Linear(dim, num_kv_heads * head_dim, bias=False)
        self.value = Linear(dim, num_kv_heads * head_dim, bias=False)
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)
        self.projection = Linear(num_heads * head_dim, dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | DocumentMask | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """Map (B, T, dim) to (B, T, dim).

        Args:
            x: the residual stream; it is normalized here.
            angles: cosines and sines (T, D) of the tokens' positions, see `rotary_angles`.
            mask: as for `attention`.
            cache: keys and values of the earlier tokens.
            layer: this layer's index in the cache.
        """
        batch, length, _ = x.shape
        x = normed_linear(x, self.norm, self.query, self.key, self.value)
        x = x.unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2K, D)
        qk, v = x.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        q, k = self._rotate(qk, angles).transpose(1, 2).split((self.num_heads, self.num_kv_heads), dim=1)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        x = attention(q, k, v, mask, self.dropout)
        return self.projection(x.transpose(1, 2).reshape(batch, length, -1))

    def _rotate(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Normalize and rotate queries and keys (B, T, H + K, D) together."""
        heads = self.num_heads, self.num_kv_heads
        weight = torch.cat(
            [n.weight.expand(h, -1) for n, h in zip((self.query_norm, self.key_norm), heads, strict=True)]
        )
        x = self.query_norm.normalize(x)
        # The norms' weights are multiplied into cosines and sines, (T, H + K, D), which are the same for all rows.
        cosine, sine = (angle[:, None].to(x.dtype) for angle in angles)
        half = self.head_dim // 2
        weight = weight.to(x.dtype)
        return x * (weight * cosine) + x.roll(half, -1) * (weight.roll(half, -1) * sine)


class SwiGLU(nn.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x)), with x normalized."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.gate = Linear(dim, hidden_dim, bias=False)
        self.up = Linear(dim, hidden_dim, bias=False)
        self.down = Linear(hidden_dim, dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        gate, up = normed_linear(x, self.norm, self.gate, self.up).chunk(2, dim=-1)
        return self.down(self.dropout(F.silu(gate) * up))


class Block(nn.Module):
    """Attention and feed-forward sublayers, each with a residual connection; they normalize their input."""

    def __init__(self, attention: GroupedQueryAttention, feedforward: SwiGLU, dropout: float) -> None:
        super().__init__()
        self.attention, self.feedforward, self.dropout = attention, feedforward, Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | DocumentMask | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        x = x + self.dropout(self.attention(x, angles, mask, cache, layer))
        return x + self.dropout(self.feedforward(x))


class MiniGPTModern(Decoder):
    """A decoder-only language model with Qwen3's architecture.

    Args:
        vocab_size: entries of the tokenizer's vocabulary.
        max_length: tokens of context in training and decoding; longer inputs work, too.
        embedding_dim: width of the residual stream.
        num_layers: blocks.
        num_heads: query heads per block.
        num_kv_heads: key/value heads per block, a divisor of ``num_heads``; None: ``num_heads``.
        head_dim: width of a head, even; None: embedding_dim / num_heads.
        feedforward_dim: hidden channels of the feed-forward; None: 8/3 embedding_dim, rounded up to a multiple of 64:
            three matrices of this width cost as much as two of 4 embedding_dim.
        tie_head: the head shares the embedding's weight (Press and Wolf 2017).
        rope_theta: base of the rotary embedding; the longest wavelength is almost 2 pi rope_theta tokens.
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
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        feedforward_dim: int | None = None,
        tie_head: bool = False,
        rope_theta: float = 10000.0,
        dropout: float | Mapping[str, float] = 0.1,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        feedforward_dim = -(-8 * embedding_dim // (3 * 64)) * 64 if feedforward_dim is None else feedforward_dim
        check_sizes(
            max_length=max_length,
            embedding_dim=embedding_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            feedforward_dim=feedforward_dim,
        )
        if head_dim is None and embedding_dim % num_heads:
            advice = f"must divide embedding_dim={embedding_dim}, or head_dim must be set"
            raise SettingError("num_heads", num_heads, advice)
        head_dim = embedding_dim // num_heads if head_dim is None else head_dim
        if head_dim % 2:
            raise SettingError(
                "head_dim", head_dim, f"must be even, such as {head_dim + 1}: rotary positions rotate pairs"
            )
        if num_heads % num_kv_heads:
            advice = f"must divide num_heads={num_heads}; one of {divisors(num_heads)} would do"
            raise SettingError("num_kv_heads", num_kv_heads, advice)
        if not rope_theta > 1:
            raise SettingError("rope_theta", rope_theta, "must be over 1, such as 10000")
        rates = dropout_rates(dropout)
        per_layer = embedding_dim * (2 * (num_heads + num_kv_heads) * head_dim + 3 * feedforward_dim)
        check_network_fits(vocab_size, embedding_dim, num_layers, per_layer, 2 * vocab_size * embedding_dim)
        self.max_length, self.rope_theta = max_length, rope_theta
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.cached_heads, self.cached_dim = num_kv_heads, head_dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = Dropout(rates.embedding)
        self.blocks = nn.ModuleList(
            Block(
                GroupedQueryAttention(embedding_dim, num_heads, num_kv_heads, head_dim, rates.attention),
                SwiGLU(embedding_dim, feedforward_dim, rates.feedforward),
                rates.residual,
            )
            for _ in range(num_layers)
        )
        self.norm = RMSNorm(embedding_dim)
        self.head = Linear(embedding_dim, vocab_size, bias=False)
        if tie_head:
            self.head.weight = self.embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        """Draw initial weights as GPT-2 (Radford et al. 2019): std 0.02, or 0.02 / sqrt(2 num_layers) for the
        matrices that write to the residual stream.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("projection.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(self.blocks)) if writes else 0.02)

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the input of the head, (B, T, dim): the normalized output of the last block; see `forward`."""
        _, mask = positions_and_mask(ids, documents, cache)
        # Positions count along the row, across documents: attention depends only on distances.
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + ids.size(1), device=ids.device)
        angles = rotary_angles(positions, self.head_dim, self.rope_theta)
        x = self.dropout(self.embedding(ids))
        return self.run_blocks(x, cache, angles, mask)
