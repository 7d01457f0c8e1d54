"""One seed for every generator of random numbers."""

import lightning as L

from minillm.errors import SettingError


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, here and in the processes that make batches.

    Raises:
        SettingError: a seed that NumPy does not take.
    """
    if not 0 <= seed < 2**32:
        raise SettingError("seed", seed, "must be from 0 to 4294967295")
    L.seed_everything(seed, workers=True, verbose=False)
