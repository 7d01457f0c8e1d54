"""GPT-2 (Radford et al. 2019), the usual baseline; it can load the weights of transformers' GPT-2.

- Learned position embeddings, one per token of context, added to the token embeddings.
- Pre-LayerNorm blocks with biases and the tanh approximation of GELU.
- The head's weight is tied to the embedding (Press and Wolf 2017).
- Initial weights have std 0.02; those that write to the residual stream have 0.02 / sqrt(2 num_layers).
"""

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from minillm.errors import SettingError
from minillm.models.cache import KeyValueCache, positions_and_mask
from minillm.models.decoder import Decoder
from minillm.models.dropout import Dropout, dropout_rates
from minillm.models.linear import Linear
from minillm.models.minigpt import Block
from minillm.models.sizes import check_network_fits, check_sizes


class GPT2(Decoder):
    """GPT-2 in any size.

    Args:
        vocab_size: entries of the tokenizer's vocabulary.
        max_length: tokens of context; longer inputs are refused.
        embedding_dim: width of the residual stream, a multiple of ``num_heads``.
        num_layers: blocks.
        num_heads: attention heads per block.
        dropout: probability for the embedded input, the attention weights and the sublayers' outputs; or a mapping
            with one for each, see `minillm.models.dropout.DropoutRates`.
        tie_head: the head shares the embedding's weight.
        gelu: ``tanh``: the tanh approximation, as in GPT-2; ``none``: exact GELU.

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
        tie_head: bool = True,
        gelu: Literal["none", "tanh"] = "tanh",
    ) -> None:
        super().__init__()
        if gelu not in ("none", "tanh"):
            raise SettingError("gelu", gelu, "must be tanh or none")
        check_sizes(max_length=max_length, embedding_dim=embedding_dim, num_layers=num_layers, num_heads=num_heads)
        if embedding_dim % num_heads:
            raise SettingError("num_heads", num_heads, f"must divide embedding_dim={embedding_dim}")
        rates = dropout_rates(dropout)
        outside = (2 * vocab_size + max_length) * embedding_dim
        check_network_fits(vocab_size, embedding_dim, num_layers, 12 * embedding_dim**2, outside)
        self.max_length, self.num_heads = max_length, num_heads
        self.cached_heads, self.cached_dim = num_heads, embedding_dim // num_heads
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.position_embedding = nn.Embedding(max_length, embedding_dim)
        self.dropout = Dropout(rates.embedding)
        self.blocks = nn.ModuleList(Block(embedding_dim, num_heads, rates, gelu) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embedding_dim)
        self.head = Linear(embedding_dim, vocab_size, bias=False)
        if tie_head:
            self.head.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("attention.projection.weight", "feedforward.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if writes else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the input of the head, (B, T, dim): the normalized output of the last block; see `forward`."""
        length = ids.size(1) if cache is None else cache.length + ids.size(1)
        if length > self.max_length:
            raise ValueError(f"GPT-2 has learned {self.max_length} positions; {length} tokens need more")
        positions, mask = positions_and_mask(ids, documents, cache)
        x = self.dropout(self.embedding(ids) + self.position_embedding(positions))
        return self.run_blocks(x, cache, mask)
