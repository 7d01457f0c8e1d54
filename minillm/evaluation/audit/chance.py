"""What checks share that ask whether something is chance."""

import numpy as np


def evenly(length: int, most: int) -> list[int]:
    """Return at most so many places, evenly over the length.

    >>> evenly(10, 3)
    [0, 4, 9]
    """
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int)).tolist() if length else []


def t_quantile(probability: float, freedom: int) -> float:
    """Return the value that Student's t with so many degrees of freedom is under with a probability."""
    from scipy.stats import t

    return float(t.ppf(probability, freedom))
