"""A network's attention weights."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from minillm.errors import SettingError
from minillm.inspection.reading import context_ids
from minillm.language_model import LanguageModel


def attention_weights(model: LanguageModel, text: str) -> np.ndarray:
    """Implement `LanguageModel.attention`."""
    ids = context_ids(model, text)
    model.check_fits("text", text, ids)
    recorder = AttentionRecorder()
    with torch.inference_mode(), torch.autocast(model.device.type, enabled=False), recorder:
        model.network(torch.tensor([ids], device=model.device))
    if not recorder.weights:
        kind = type(model.network).__name__
        raise SettingError("model", kind, "has no attention that PyTorch's scaled_dot_product_attention computes")
    return torch.cat(recorder.weights).float().cpu().numpy()


class AttentionRecorder(TorchFunctionMode):
    """Context manager that records the weights of each call of PyTorch's scaled dot-product attention.

    PyTorch's kernel does not return the weights, so they are computed again from the same queries, keys and mask. This
    works for any network, and changes nothing in it.

    Attributes:
        weights: (B, H, T, S) of each layer, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.weights.append(weights(*args, **kwargs))
        return func(*args, **kwargs)


def weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the weights of `torch.nn.functional.scaled_dot_product_attention`, softmax(Q K^T scale + mask).

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D); K divides H.
        value: not used.
        attn_mask: broadcasts to (B, H, T, S): bool, true where a query attends, or float, added; None: no mask.
        dropout_p: not used.
        is_causal: whether a causal mask applies.
        scale: None: 1 / sqrt(D).
        enable_gqa: not used: K < H implies grouped queries.

    Returns:
        (B, H, T, S) float32.
    """
    key = key.repeat_interleave(query.size(1) // key.size(1), dim=1)
    scores = query.float() @ key.float().mT * (query.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1)
