"""Tasks on the cores of this machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from minillm.engines.engine import Engine, Task, Token, perform
from minillm.errors import SettingError
from minillm.parallel import apart, cores


@dataclass(frozen=True)
class Local(Engine):
    """Runs tasks in processes of this machine.

    Without a number of tasks, articles stream through the processes, and no intermediate files are written.

    Args:
        processes: how many run at a time; None: one per core.
    """

    processes: int | None = None
    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes is not None and self.processes < 1:
            raise SettingError("processes", self.processes, "must be at least 1, or null for all cores")

    def _perform(self, tasks: Sequence[Task], token: Token, alone: bool) -> Iterator[None]:
        processes = 1 if alone else self.processes or cores()
        yield from apart(partial(perform, token), [[task] for task in tasks], processes, fresh=alone)
