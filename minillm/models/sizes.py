"""What every network's sizes have in common."""

from minillm.errors import SettingError


def check_sizes(**sizes: int | None) -> None:
    """Check that sizes are positive; one that is None is not set.

    Raises:
        SettingError: one under 1.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise SettingError(name, size, "must be at least 1")
