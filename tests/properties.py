"""Properties that hold for any value, tried with hypothesis: few examples always, many behind the marker ``long``."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.long)])
PIECES = (
    *"aañÑ1.,:;()«»¿?¡!\"'-—…%°º/[]{}#\n\t\0\r\u00a0\u0301\u200d\ufeff\uffff🙂漢٣",
    *" " * 12,
    *("[PAD]", "[UNK]", "[BOS]", "[EOS]", "hola", "Nueva York", "El año ", "1.492,5", "3,14", "ciudad de "),
)
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def check_for_any(examples: int, check: Callable[..., None], *values: st.SearchStrategy[Any]) -> None:
    """Check a property for so many examples; where they are few, they are the same ones each time."""
    chosen = settings(
        max_examples=examples,
        derandomize=examples <= 100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(*values)(check))()
