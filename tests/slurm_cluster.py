"""A real Slurm of two nodes on this machine, for the tests that submit jobs."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("n1", "n2")
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/slurmd.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/pgid
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
JobRequeue=1
SlurmdParameters=config_overrides
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Say what this machine lacks for it, or nothing."""
    if os.name != "posix" or os.getuid() != 0:
        return "Slurm's daemons are started as root only"
    if lacking := [name for name in ("slurmctld", "slurmd", "sbatch", "srun", "munged") if not _program(name)]:
        return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm munge)"
    return None


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start it with its files in a folder; the environment in which its commands reach it.

    It has ``MASTER_ADDR=127.0.0.1``, which jobs of several nodes need, since the nodes' names resolve to nothing.
    """
    (folder / "state").mkdir(parents=True)
    controller, *ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    text = SETTINGS.format(host=host, controller=controller, folder=folder)
    for node, port in zip(NODES, ports, strict=True):
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=8000\n"
    settings = folder / "slurm.conf"
    settings.write_text(text, encoding="utf-8")
    environment = {**os.environ, "SLURM_CONF": str(settings), "MASTER_ADDR": "127.0.0.1"}
    _start_munge()
    processes = [[_program("slurmctld"), "-D", "-f", settings]]
    processes += [[_program("slurmd"), "-D", "-N", node, "-f", settings] for node in NODES]
    with ExitStack() as stack:
        for command in processes:
            log = stack.enter_context((folder / "daemons.log").open("ab"))
            daemon = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
            stack.callback(_end, daemon)
        _wait_for_nodes(environment, folder)
        yield environment
        subprocess.run(["scancel", "--user=root", "--full"], env=environment, check=False)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start_munge() -> None:
    """Start the daemon that signs Slurm's messages, which serves the whole machine, unless it answers already."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    for folder in map(Path, ("/run/munge", "/var/log/munge", "/var/lib/munge")):
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    Path("/run/munge").chmod(0o755)
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    command = ["runuser", "-u", "munge", "--", str(_program("munged")), "--pid-file=/run/munge/munged.pid"]
    subprocess.run(command, check=False, capture_output=True)
    for _ in range(50):
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError("munged does not answer")


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    for _ in range(150):
        shown = subprocess.run(
            ["sinfo", "-h", "-N", "-t", "idle"], env=environment, capture_output=True, text=True, check=False
        )
        if len(shown.stdout.splitlines()) == len(NODES):
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm's nodes did not come up: {(folder / 'daemons.log').read_text(encoding='utf-8')[-2000:]}")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
