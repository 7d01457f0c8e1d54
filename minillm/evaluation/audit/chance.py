"""Helpers of checks that sample or test for chance."""

import numpy as np


def evenly(length: int, most: int) -> list[int]:
    """Return at most ``most`` evenly spaced indices of a sequence.

    >>> evenly(10, 3)
    [0, 4, 9]
    """
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int)).tolist() if length else []


def t_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t distribution with ``freedom`` degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(probability, freedom))
