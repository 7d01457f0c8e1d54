"""Where a network looks: the weights of its attention."""

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
    """Return what `LanguageModel.attention` says of a text."""
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
    """Notes, while it is entered, the weights of each attention that PyTorch's kernel computes.

    The kernel does not return them: they are computed beside it, from the same queries, keys and mask. So a network is
    looked at as it is, whatever its kind, and nothing is added to it.

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
    """Return softmax(Q K^T scale + mask), what `torch.nn.functional.scaled_dot_product_attention` weighs values with.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D); K divides H.
        value: not looked at.
        attn_mask: broadcasts to (B, H, T, S): bool, true where one may look, or what is added; None: everywhere.
        dropout_p: not applied.
        is_causal: whether a place sees those up to itself alone.
        scale: None: 1 / sqrt(D).
        enable_gqa: whether heads may share keys.

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
