"""Figures that were measured several times."""

from collections.abc import Sequence

import numpy as np

from minillm.benchmarking.schema import Spread


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles (interpolated linearly) of a figure's rounds.

    >>> spread([4.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.5, 'high': 3.0, 'values': [4.0, 1.0, 2.0]}

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("there is no round to summarize")
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    return {"median": median, "low": low, "high": high, "values": [float(value) for value in values]}


def ratio(ours: Spread, theirs: Spread) -> Spread:
    """Return ours over theirs, round by round: what slows a whole round down drops out.

    Raises:
        ValueError: not equally many rounds.
    """
    return spread([a / b for a, b in zip(ours["values"], theirs["values"], strict=True)])


def overhead(whole: Spread, inner: Spread) -> Spread:
    """Return which share of a time is not the inner one's, round by round; negative where that took longer.

    Raises:
        ValueError: not equally many rounds.
    """
    return spread([1 - share for share in ratio(inner, whole)["values"]])
