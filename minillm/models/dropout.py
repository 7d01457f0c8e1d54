"""Dropout, and its rates at the places of a network."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.models import processor


class Dropout(nn.Module):
    """In training, zeroes each element with probability p and scales up the others (Srivastava et al. 2014).

    Args:
        p: probability of dropping an element, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map a float tensor to one of the same shape and type."""
        if not self.training or self.p == 0:
            return x
        return processor.dropout(x, self.p) if processor.is_used(x) else F.dropout(x, self.p)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"p={self.p}"


class DropoutRates(NamedTuple):
    """Dropout probabilities, by where dropout is applied.

    Args:
        embedding: to the embedded input.
        attention: to the attention weights.
        residual: to a sublayer's output, before it is added to the residual stream.
        feedforward: to the hidden channels of the feed-forward layer.
    """

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    feedforward: float = 0.0


def dropout_rates(dropout: float | Mapping[str, float]) -> DropoutRates:
    """Return the rates of a setting: one rate for embedding, attention and residual, or a rate for each name.

    >>> dropout_rates(0.1)
    DropoutRates(embedding=0.1, attention=0.1, residual=0.1, feedforward=0.0)
    >>> dropout_rates({"residual": 0.2})
    DropoutRates(embedding=0.0, attention=0.0, residual=0.2, feedforward=0.0)

    Raises:
        SettingError: an unknown name, or a rate outside [0, 1).
    """
    rates = dropout if isinstance(dropout, Mapping) else {"dropout": dropout}
    for place, rate in rates.items():
        name = place if place == "dropout" else f"dropout.{place}"
        if isinstance(dropout, Mapping) and place not in DropoutRates._fields:
            raise SettingError(name, rate, f"is unknown; choose from {', '.join(DropoutRates._fields)}")
        if not 0 <= rate < 1:
            raise SettingError(name, rate, "must be at least 0 and under 1, such as 0.1")
    return DropoutRates(**rates) if isinstance(dropout, Mapping) else DropoutRates(dropout, dropout, dropout)
