"""How much memory there is, and whether what is about to be made fits into it."""

from pathlib import Path
from typing import Any

import psutil

from minillm.errors import SettingError

GIB = 2**30
MAX_LENGTH = 2**16  # tokens of context: the time and memory of attention grow with the square
CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes that this process can still have before the system ends it, a container's limit included."""
    free = [psutil.virtual_memory().available + psutil.swap_memory().free]
    try:
        limit, used = ((CONTROL_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        # What it counts as used holds pages of files too, which the system gives back when memory is short.
        statistics = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        given_back = int(statistics["inactive_file"])
        free += [] if limit == "max" else [max(0, int(limit) - int(used) + given_back)]
    except (KeyError, OSError, ValueError):  # another system, or no container
        pass
    return min(free)


def check_memory(setting: str, value: Any, needed: int, what: str) -> None:
    """Check that something fits into memory, before it is made: the system would end the process without a word.

    Args:
        setting: the setting that makes it so large.
        value: what it is set to.
        needed: bytes.
        what: what needs them, for the message.

    Raises:
        SettingError: it does not fit.
    """
    available = available_memory()
    if needed > available:
        advice = f"{what} take {needed / GIB:,.1f} GiB, and {available / GIB:,.1f} GiB of memory are free; lower it"
        raise SettingError(setting, value, advice)
