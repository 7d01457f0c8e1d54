"""Engines run the work on a corpus: on this machine, on Slurm or on Ray, with the same results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.engines.engine import Engine, Task
    from minillm.engines.local import Local
    from minillm.engines.ray import Ray
    from minillm.engines.slurm import Slurm

__all__ = ["Engine", "Local", "Ray", "Slurm", "Task"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # tasks' processes import no engine
        module = "engine" if name in ("Engine", "Task") else name.lower()
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
