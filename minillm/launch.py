"""The processes of one run: who started them, and what they agree on before the trainer is up.

Imports nothing heavy: `minillm.signals` asks it while PyTorch is still being imported.
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
AGREED = "MINILLM_AGREED_"  # environment variables, for the processes that the first one starts itself
PATIENCE = timedelta(minutes=10)  # for the first process to be there; then it may take as long as its work takes
PORTS = range(15_000, 31_384)  # where a job's processes meet: below those that the system hands out
PAUSE = 0.1  # seconds between two questions


@dataclass(frozen=True)
class Launch:
    """The processes that something outside started for one run.

    Args:
        by: ``srun`` or ``torchrun``.
        rank: this process's number.
        world_size: how many there are.
        nodes: on so many machines.
        per_node: so many on each; None: not equally many.
    """

    by: str
    rank: int
    world_size: int
    nodes: int
    per_node: int | None


def launched() -> Launch | None:
    """Return who this process is among those that srun or torchrun started; None: it was started alone."""
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
    """Return whether this is one of several processes that share the same run, and not the first."""
    process = launched()
    if process is not None and process.world_size > 1:
        return process.rank > 0  # srun may have started each machine's torchrun, and so numbered them as well
    return os.environ.get("LOCAL_RANK", "0") != "0"  # Lightning, in the first process, started this one


def agreed(name: str, make: Callable[[], str] = str) -> str:
    """Return what the first of the run's processes has made, once it has; the others wait for it.

    Where the first one ends before, and says why, the others end without a word.

    Args:
        name: what is agreed on.
        make: called in the first process alone.

    Returns:
        What was made; in a process that the first one started before it made it, nothing.

    Raises:
        OutsideError: the processes do not reach each other.
    """
    process = launched()
    if process is None or process.world_size == 1:
        if is_further_process():
            return os.environ.get(AGREED + name, "")
        os.environ[AGREED + name] = value = make()
        return value
    store = _store()
    if process.rank:
        with contextlib.suppress(RuntimeError):  # the first process was killed
            while not store.check([name]):
                end_without_first()
                time.sleep(PAUSE)
            return bytes(store.get(name)).decode()
        sys.exit(0)
    value = make()
    store.set(name, value)
    return value


def first_has_ended() -> bool:
    """Return whether the first of the processes that srun or torchrun started has ended, however it did."""
    try:
        return bool(_stores) and bool(_stores[0].check([ENDED]))
    except RuntimeError:  # the store went with it
        return True


def end_without_first() -> None:
    """End without a word where the first process has ended."""
    if first_has_ended():
        sys.exit(0)


def dismiss() -> None:
    """Say, as the first process and before it ends, that there is nothing more to wait for."""
    if _stores and not is_further_process():
        with contextlib.suppress(RuntimeError):
            _stores[0].set(ENDED, "")
            time.sleep(10 * PAUSE)  # the store ends with this process


_stores: list[Any] = []


def _store() -> Any:
    """Return the store of values that PyTorch's processes meet at, which the process group uses afterwards."""
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
            store = TCPStore(address, port, None, hosts, PATIENCE, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            advice = "MASTER_ADDR=... and MASTER_PORT=... in the environment say where the processes meet"
            where = f"{address}:{port}"
            raise OutsideError(f"{where}: the processes do not meet there ({problem}); {advice}") from error
        _stores.append(PrefixStore(f"minillm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store))
    return _stores[0]
