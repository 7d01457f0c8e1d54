"""The split: which articles a model learns from, which ones steer it, and which ones judge it."""

import hashlib
import math
from collections.abc import Sequence

from minillm.errors import SettingError

SPLITS = ("train", "val", "test")
VERSION = 1  # raised when the same article would get another split


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the shares as a tuple of floats.

    Args:
        shares: the parts of the articles that train, val and test get.

    Raises:
        SettingError: they are not three numbers of at least 0 that sum to 1, or nothing is left to train on.
    """
    advice = "must be three shares (train, val, test) that sum to 1, such as [0.7,0.15,0.15]"
    try:
        numbers = tuple(float(share) for share in shares)
    except (TypeError, ValueError, OverflowError):
        raise SettingError("split", shares, advice) from None
    if len(numbers) != len(SPLITS) or not all(share >= 0 for share in numbers) or abs(sum(numbers) - 1) > 1e-6:
        raise SettingError("split", list(numbers), advice)
    if numbers[0] == 0:
        raise SettingError("split", list(numbers), "leaves nothing to train on: the first share must be above 0")
    return numbers


def split_of(page_id: int, shares: Sequence[float], place: float | None = None) -> str:
    """Return the split of an article: ``train``, ``val`` or ``test``.

    The identity alone decides, through a hash: no seed, no order, no other article. So an article never changes side
    as a corpus grows, is read in another order or is revised.

    Args:
        page_id: the article's identity.
        shares: the parts of the articles that train, val and test get (see `check_shares`).
        place: decides in place of the hash, see `minillm.corpus.Article`; None: the hash does.

    >>> split_of(7, (0.7, 0.15, 0.15)), split_of(9, (0.7, 0.15, 0.15))
    ('train', 'val')
    """
    position = (uniform("split", page_id) if place is None else place) * math.fsum(shares)
    end = 0.0
    for split, share in zip(SPLITS, shares, strict=True):
        end += share
        if position < end:
            return split
    return [split for split, share in zip(SPLITS, shares, strict=True) if share][-1]  # rounding of the sum


def uniform(purpose: str, page_id: int) -> float:
    """Return a number from 0 to under 1 that an article's identity alone decides, evenly spread over all articles.

    Args:
        purpose: one word that keeps it apart from other uses; with "split" the sample comes out close to 70/15/15.
        page_id: the article's identity.
    """
    digest = hashlib.sha256(f"{purpose}/{page_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
