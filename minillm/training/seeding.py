"""One seed for all random number generators."""

import lightning as L

from minillm.errors import SettingError


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, in this process and in the data loader's workers.

    Raises:
        SettingError: a seed that NumPy does not accept.
    """
    if not 0 <= seed < 2**32:
        raise SettingError("seed", seed, "must be from 0 to 4294967295")
    L.seed_everything(seed, workers=True, verbose=False)
