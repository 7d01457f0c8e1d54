"""MiniGPT as one would build it today: the form of Qwen3 (Yang et al. 2025), small.

- RMSNorm before each sublayer and before the head (Zhang and Sennrich 2019); no biases anywhere.
- Rotary positions (Su et al. 2021): queries and keys are turned by an angle that grows with the place, so attention
  sees only distances. Documents that share a row need no places of their own, and no length is the last.
- Grouped-query attention (Ainslie et al. 2023): several query heads share keys and values.
- Queries and keys are normalized (Henry et al. 2020), so that attention cannot saturate at high learning rates.
- SwiGLU feed-forward (Shazeer 2020).
- Matrices with the same input are multiplied at once, the norm before them folded in; as parameters they stay apart, as
  Muon wants them. `minillm.export.forms` names them as transformers does.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.models.attention import attention
from minillm.models.cache import KeyValueCache, place
from minillm.models.dropout import Dropout, dropout_rates
from minillm.models.linear import Linear, linear
from minillm.models.normalization import RMSNorm
from minillm.models.placing import WithinDocuments
from minillm.models.sizes import check_network_fits, check_sizes, divisors


def rotary_angles(places: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles that tokens at these places turn a head by.

    Channel i and channel i + dim/2 turn together, by place * theta^(-2i/dim); the sine of the first half is negative,
    so that the turned x is x * cosine + x.roll(dim/2) * sine.

    Args:
        places: (T,) int64.
        dim: channels of a head.
        theta: the slowest wave is almost 2 pi theta tokens long.

    Returns:
        two of (T, dim), float32.
    """
    frequency = theta ** (torch.arange(0, dim, 2, device=places.device, dtype=torch.float32) / -dim)
    angle = places[:, None] * frequency
    return torch.cat((angle.cos(), angle.cos()), dim=-1), torch.cat((-angle.sin(), angle.sin()), dim=-1)


def normed_linear(x: Tensor, norm: RMSNorm, *layers: Linear) -> Tensor:
    """Return what several linear layers make of the normalized x, side by side: one product and no pass for the norm.

    Args:
        x: (..., dim).
        norm: its weight scales the columns of the matrices, unless there are fewer vectors than rows to scale.
        layers: without biases.
    """
    if torch.compiler.is_exporting() or x.shape[:-1].numel() < sum(layer.out_features for layer in layers):
        x = norm(x)
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return linear(norm.normalize(x), torch.cat([layer.weight for layer in layers]) * norm.weight)


class GroupedQueryAttention(nn.Module):
    """Causal self-attention in which ``num_heads / num_kv_heads`` query heads share a head of keys and values."""

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
        mask: Tensor | WithinDocuments | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """Map (B, T, dim) to (B, T, dim).

        Args:
            x: what to normalize and attend with.
            angles: cosines and sines (T, D) of the tokens' places.
            mask: (B, 1, T, S), true where a token may look; None: plain causal.
            cache: keys and values of the tokens before.
            layer: whose they are.
        """
        batch, length, _ = x.shape
        x = normed_linear(x, self.norm, self.query, self.key, self.value)
        x = x.unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2K, D)
        turning, v = x.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        q, k = self._turn(turning, angles).transpose(1, 2).split((self.num_heads, self.num_kv_heads), dim=1)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        x = attention(q, k, v, mask, self.dropout)
        return self.projection(x.transpose(1, 2).reshape(batch, length, -1))

    def _turn(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Normalize and turn queries and keys (B, T, H + K, D), both at once."""
        heads = self.num_heads, self.num_kv_heads
        weight = torch.cat(
            [n.weight.expand(h, -1) for n, h in zip((self.query_norm, self.key_norm), heads, strict=True)]
        )
        x = self.query_norm.normalize(x)
        # The norms' weights, too, go into what is multiplied anyway: (T, H + K, D), the same for all rows.
        cosine, sine = (angle[:, None].to(x.dtype) for angle in angles)
        half = self.head_dim // 2
        weight = weight.to(x.dtype)
        return x * (weight * cosine) + x.roll(half, -1) * (weight.roll(half, -1) * sine)


class SwiGLU(nn.Module):
    """Feed-forward whose hidden channels are gated by others: down(silu(gate(x)) * up(x))."""

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
    """Attention and feed-forward, each normalized before and added to what came in."""

    def __init__(self, attention: GroupedQueryAttention, feedforward: SwiGLU, dropout: float) -> None:
        super().__init__()
        self.attention, self.feedforward, self.dropout = attention, feedforward, Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | WithinDocuments | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        x = x + self.dropout(self.attention(x, angles, mask, cache, layer))
        return x + self.dropout(self.feedforward(x))


class MiniGPTModern(nn.Module):
    """A decoder-only language model in Qwen3's form.

    Args:
        vocab_size: entries of the tokenizer's vocabulary.
        max_length: tokens of context that it is trained on and that decoding keeps; longer inputs work too.
        embedding_dim: width of the residual stream.
        num_layers: blocks.
        num_heads: query heads a block.
        num_kv_heads: heads of keys and values, which divide the query heads among them; None: as many.
        head_dim: width of a head, even; None: embedding_dim / num_heads.
        feedforward_dim: hidden channels of the feed-forward; None: 8/3 embedding_dim, which with its three matrices
            costs what 4 embedding_dim do with two, rounded up to a multiple of 64.
        tie_head: the head has no weights of its own but the embedding's (Press and Wolf 2017).
        rope_theta: the slowest rotary wave is almost 2 pi times so many tokens long.
        dropout: a probability, or one for each place, see `minillm.models.dropout.DropoutRates`.

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
                "head_dim", head_dim, f"must be even, such as {head_dim + 1}: rotary positions turn pairs"
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
        """Draw fresh weights.

        Linear layers have std 0.02 as GPT-2's, those that write to the residual stream the less the more of them add
        up there (Radford et al. 2019).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("projection.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(self.blocks)) if writes else 0.02)

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``batch_size`` rows of at most ``capacity`` tokens."""
        weight = self.head.weight
        shape = (batch_size, self.num_kv_heads, capacity, self.head_dim)
        return KeyValueCache(len(self.blocks), shape, weight.device, weight.dtype)

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return what the head makes logits of, (B, T, dim): the last block's output, normalized; see `forward`."""
        _, mask = place(ids, documents, cache)
        # Distances are all that attention sees: places are counted along the row, through whatever documents it holds.
        start = 0 if cache is None else cache.length
        places = torch.arange(start, start + ids.size(1), device=ids.device)
        angles = rotary_angles(places, self.head_dim, self.rope_theta)
        x = self.dropout(self.embedding(ids))
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, mask, cache, layer)
        if cache is not None:
            cache.length += ids.size(1)
        return self.norm(x)

    def forward(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Predict each next token.

        Args:
            ids: (B, T) token ids.
            documents: (B, T), equal numbers side by side belong to one document, beyond which nothing is seen;
                None: each row is one document.
            cache: the tokens before these; it is extended by these.

        Returns:
            (B, T, vocab_size) logits of the token after each.
        """
        return self.head(self.hidden(ids, documents, cache))
