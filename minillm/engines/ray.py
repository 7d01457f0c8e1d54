"""Tasks on Ray: on a running cluster, or on one that is started on this machine."""

import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from minillm.engines.engine import Engine, Task, Token, needs, perform
from minillm.errors import MiniLLMError, OutsideError, SettingError
from minillm.parallel import environment

SUBMITTED_AT_ONCE = 1000  # tasks
HOST_AND_PORT = re.compile(r"(?:ray://)?(.+):(\d+)")
CONNECT_TIMEOUT = 10.0  # seconds; Ray itself tries for a minute and a half


@dataclass(frozen=True)
class Ray(Engine):
    """Runs tasks on Ray.

    Args:
        address: of a running cluster, such as ``auto`` or ``ray://host:10001``; None: a cluster on this machine, which
            ends with this process.
        cpus: cores per task.
        memory_gb: memory that Ray reserves per task; None: no reservation.
    """

    tasks: int | None = 64
    address: str | None = None
    cpus: float = 1
    memory_gb: float | None = None
    name: ClassVar[str] = "ray"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is None:
            raise SettingError("tasks", None, "must be a number, such as 64")
        if self.cpus <= 0:
            raise SettingError("cpus", self.cpus, "must be above 0, such as 1")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise SettingError("memory_gb", self.memory_gb, "must be above 0, or null")
        needs(self.name, "ray")

    def _perform(self, tasks: Sequence[Task], token: Token, alone: bool) -> Iterator[None]:
        import ray

        _connect(self.address)
        resources: dict[str, Any] = {"num_cpus": self.cpus}
        if self.memory_gb is not None:
            resources["memory"] = int(self.memory_gb * 2**30)
        remote = ray.remote(**resources, max_retries=0, max_calls=int(alone))(perform)  # 0: no limit
        waiting, under_way = list(reversed(tasks)), set[Any]()
        while waiting or under_way:
            while waiting and len(under_way) < (1 if alone else SUBMITTED_AT_ONCE):
                under_way.add(remote.remote(token, [waiting.pop()]))
            finished, _ = ray.wait(list(under_way))
            for reference in finished:
                under_way.discard(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, MiniLLMError):
                        raise error.cause from error
                    raise OutsideError(f"ray: {' '.join(str(error.cause).split())}") from error
                except (ray.exceptions.RayError, ray.exceptions.RaySystemError):
                    pass  # the worker died: no result, so the task is run again
                yield


def _connect(address: str | None) -> None:
    """Connect to a cluster or start one; the connection stays until this process ends, for further tasks."""
    import ray

    if ray.is_initialized():
        return
    if address and (host_and_port := HOST_AND_PORT.fullmatch(address)):
        try:
            socket.create_connection((host_and_port[1], int(host_and_port[2])), timeout=CONNECT_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise _no_answer(address, error) from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    here: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(
            address,
            runtime_env={"env_vars": environment()},
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            **here,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
        if address is None:
            raise OutsideError(f"ray cannot be started: {' '.join(str(error).split())[:200]}") from error
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> SettingError:
    return SettingError("engine.address", address, f"no cluster of Ray answers there ({type(error).__name__})")
