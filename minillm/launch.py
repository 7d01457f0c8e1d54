"""The processes of one run: what started them, and values that they share before the trainer exists.

It imports little: `minillm.signals` uses it while PyTorch is still being imported.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from minillm.errors import OutsideError

ENDED = "ended"
SHARED_PREFIX = "MINILLM_AGREED_"  # of environment variables, for processes that the first one starts itself
TIMEOUT = timedelta(minutes=10)  # for the first process to start; it may work for any time
PORTS = range(15_000, 31_384)  # for a job's processes to connect: below the system's ephemeral ports
POLL_INTERVAL = 0.1  # seconds


@dataclass(frozen=True)
class Launch:
    """The processes that srun or torchrun started for one run.

    Args:
        by: ``srun`` or ``torchrun``.
        rank: this process's number.
        world_size: number of processes.
        nodes: number of machines.
        per_node: processes per machine; None: not the same number on each.
    """

    by: str
    rank: int
    world_size: int
    nodes: int
    per_node: int | None


def launched() -> Launch | None:
    """Return how srun or torchrun started this process; None: neither did."""
    names = os.environ
    if "TORCHELASTIC_RUN_ID" in names:
        nodes, per_node = int(names["GROUP_WORLD_SIZE"]), int(names["LOCAL_WORLD_SIZE"])
        world_size = int(names["WORLD_SIZE"])
        return Launch(
            "torchrun", int(names["RANK"]), world_size, nodes, per_node if nodes * per_node == world_size else None
        )
    if "SLURM_STEP_NUM_TASKS" in names and "SLURM_PROCID" in names:
        world_size, nodes = int(names["SLURM_STEP_NUM_TASKS"]), int(names["SLURM_STEP_NUM_NODES"])
        equal = re.fullmatch(r"(\d+)(\(x\d+\))?", names.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return Launch("srun", int(names["SLURM_PROCID"]), world_size, nodes, int(equal[1]) if equal else None)
    return None


def is_further_process() -> bool:
    """Return whether this is one of a run's processes other than the first."""
    process = launched()
    if process is not None and process.world_size > 1:
        return process.rank > 0  # torchrun's rank: srun, which may have started each torchrun, has other numbers
    return os.environ.get("LOCAL_RANK", "0") != "0"  # set by Lightning in the first process


def agreed(name: str, make: Callable[[], str] = str) -> str:
    """Return a value that the first of the run's processes makes; the others wait for it.

    If the first process ends before, with a message, the others exit silently.

    Args:
        name: of the value.
        make: makes the value; called only in the first process.

    Returns:
        The value; "" in a process that the first one started before it had made the value.

    Raises:
        OutsideError: the processes cannot connect.
    """
    process = launched()
    if process is None or process.world_size == 1:
        if is_further_process():
            return os.environ.get(SHARED_PREFIX + name, "")
        os.environ[SHARED_PREFIX + name] = value = make()
        return value
    store = _store()
    if process.rank:
        with contextlib.suppress(RuntimeError):  # the first process was killed
            while not store.check([name]):
                end_without_first()
                time.sleep(POLL_INTERVAL)
            return bytes(store.get(name)).decode()
        sys.exit(0)
    value = make()
    store.set(name, value)
    return value


def first_has_ended() -> bool:
    """Return whether the first of the processes that srun or torchrun started has ended."""
    try:
        return bool(_stores) and bool(_stores[0].check([ENDED]))
    except RuntimeError:  # the store has ended with it
        return True


def end_without_first() -> None:
    """Exit silently if the first process has ended."""
    if first_has_ended():
        sys.exit(0)


def dismiss() -> None:
    """In the first process, before it ends: tell the others that it does."""
    if _stores and not is_further_process():
        with contextlib.suppress(RuntimeError):
            _stores[0].set(ENDED, "")
            time.sleep(10 * POLL_INTERVAL)  # the store ends with this process


_stores: list[Any] = []


def _store() -> Any:
    """Return PyTorch's store of shared values, which the process group uses later."""
    if not _stores:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        process = launched()
        assert process is not None
        if process.by == "srun":
            # Lightning would give two steps of a job the same port.
            number = 8 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
            os.environ.setdefault("MASTER_PORT", str(PORTS.start + number % len(PORTS)))
            os.environ["SLURM_NTASKS_PER_NODE"] = str(process.per_node or process.world_size)  # Lightning asks for it
            os.environ["MASTER_ADDR"] = SLURMEnvironment(auto_requeue=False).main_address
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        hosts = process.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            store = TCPStore(address, port, None, hosts, TIMEOUT, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            advice = "set MASTER_ADDR=... and MASTER_PORT=... in the environment"
            where = f"{address}:{port}"
            raise OutsideError(f"{where}: the processes cannot connect there ({problem}); {advice}") from error
        _stores.append(PrefixStore(f"minillm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store))
    return _stores[0]
