"""Available memory, checks that something will fit into it, and the memory that this process takes."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import psutil

from minillm.errors import SettingError

MIB, GIB = 2**20, 2**30
MAX_LENGTH = 2**16  # tokens of context: time and memory of attention grow with the square
CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes that this process can still allocate, also within a container's limit."""
    free = [psutil.virtual_memory().available + psutil.swap_memory().free]
    try:
        limit, used = ((CONTROL_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        # The used memory includes cached pages of files, which the system frees when memory is short.
        statistics = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        reclaimable = int(statistics["inactive_file"])
        free += [] if limit == "max" else [max(0, int(limit) - int(used) + reclaimable)]
    except (KeyError, OSError, ValueError):  # not Linux, or no container
        pass
    return min(free)


def check_memory(setting: str, value: Any, needed: int, what: str) -> None:
    """Check that something fits into memory before it is allocated: the system would kill the process silently.

    Args:
        setting: the setting that determines the size.
        value: its value.
        needed: bytes.
        what: what needs them, for the message.

    Raises:
        SettingError: it does not fit.
    """
    available = available_memory()
    if needed > available:
        advice = f"{what} take {needed / GIB:,.1f} GiB, and {available / GIB:,.1f} GiB of memory are free; lower it"
        raise SettingError(setting, value, advice)


def resident_mib() -> float:
    """Return the memory that this process takes now, in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB


def peak_mib() -> float:
    """Return the most memory that this process has taken so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage starts at the peak of the process that started this one.
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # macOS counts in bytes


def family_mib(pid: int, worked: dict[int, float]) -> float:
    """Return the memory that a process and those it has started take now, in MiB; what they share counts once.

    Args:
        pid: of the process.
        worked: receives the CPU seconds of each process, by its id.
    """
    total = 0
    with contextlib.suppress(psutil.Error):  # it has just ended
        for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                info, times = member.memory_full_info(), member.cpu_times()
                total += getattr(info, "pss", info.uss)  # without PSS: only what each has for itself
                worked[member.pid] = times.user + times.system
    return total / MIB
