"""The split of articles into train, val and test."""

import hashlib
import math
from collections.abc import Sequence

from minillm.errors import SettingError

SPLITS = ("train", "val", "test")
VERSION = 1  # increased when the same article gets another split


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the shares as a tuple of floats.

    Args:
        shares: of articles for train, val and test.

    Raises:
        SettingError: they are not three numbers of at least 0 that sum to 1, or the share of train is 0.
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

    It depends only on a hash of the page id, and not on a seed, the order or other articles. So an article never
    changes its split when a corpus grows, is read in another order or is revised.

    Args:
        page_id: the article's identity.
        shares: of articles for train, val and test (see `check_shares`).
        place: used instead of the hash, see `minillm.corpus.Article`; None: use the hash.

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
    """Return a number in [0, 1) that depends only on an article's page id, uniform over articles.

    Args:
        purpose: a word that makes different uses independent; "split" divides the sample nearly 70/15/15.
        page_id: the article's identity.
    """
    digest = hashlib.sha256(f"{purpose}/{page_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
