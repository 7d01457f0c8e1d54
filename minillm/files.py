"""Files and folders that are written atomically and checked for damage before use."""

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from minillm.errors import OutsideError, SettingError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
VERIFIED = "MINILLM_VERIFIED"  # environment variable: child processes need not verify again
TEMPORARY = ".minillm.tmp"
MOUNTS = Path("/proc/mounts")
LEASE = 300.0  # seconds after which a lock expires if its holder does not renew it
# Network file systems, by their Linux names.
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "glusterfs"}
NETWORK |= {"panfs", "orangefs", "pvfs2", "wekafs", "ocfs2", "gfs2"}
NETWORK |= {f"fuse.{name}" for name in ("sshfs", "glusterfs", "ceph", "s3fs", "rclone", "gcsfuse", "juicefs", "goofys")}


@contextmanager
def written_whole(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; sync it to disk and rename it to ``path`` at the end.

    If the block raises or the process dies, ``path`` does not change. The next writer into the same folder removes the
    left-overs of a dead process, ``.<name>.<number>.minillm.tmp``; a running writer holds a lock on its own (not on
    Windows, where left-overs stay).

    Args:
        path: the file or folder to write; an existing file is replaced, a folder must not exist.
        folder: whether it is a folder: it is created, empty, before the block; after it, a ``SHA256SUMS`` of all its
            files is added, for `is_whole` (and ``sha256sum --check``).

    Raises:
        OSError: it cannot be written there.
    """
    path = Path(path)
    remove_left_overs(path.parent)
    temporary, lock = _begin(path, folder)
    try:
        yield temporary
        if folder:
            names = [file.relative_to(temporary).as_posix() for file in temporary.rglob("*") if file.is_file()]
            sums = {name: _sha256(temporary / name) for name in sorted(names)}
            (temporary / SUMS).write_text(_listing(sums), encoding="utf-8")
        for file in (temporary, *temporary.rglob("*")) if folder else (temporary,):
            _sync(file)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def is_whole(folder: Path) -> bool:
    """Return whether a folder exists and is undamaged; remove a damaged one, with a warning.

    A process and its children read its files once, unless they change. No other process may write the folder
    meanwhile, see `locked`.

    Raises:
        OutsideError: it exists, but cannot be read, or is damaged and cannot be removed.
    """
    try:
        if not folder.is_dir():
            return False
        damaged = damaged_files(folder)
    except OSError as error:
        raise OutsideError(f"{folder}: cannot be read ({problem_of(error)})") from error
    if not damaged:
        return True
    try:
        # Rename first: a process that dies while it removes files leaves a left-over, not half a folder.
        left_over = _temporary(folder)
        folder.rename(left_over)
    except OSError as error:
        problem = f"is damaged ({', '.join(damaged)}), and cannot be made again: {problem_of(error)}"
        raise OutsideError(f"{folder}: {problem}") from error
    shutil.rmtree(left_over, ignore_errors=True)
    log.warning("%s is damaged (%s), made again", folder, ", ".join(damaged))
    return False


def damaged_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that differ from its ``SHA256SUMS``; other files are ignored.

    Raises:
        PermissionError: a file may not be read.
    """
    try:
        text = (folder / SUMS).read_bytes().decode("utf-8", "replace")
    except PermissionError:
        raise
    except OSError:
        return [SUMS]
    listed = {name: sha256 for sha256, name in re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.MULTILINE)}
    if text != _listing(listed):
        return [SUMS]
    state = _state(folder, listed)
    verified = os.environ.get(VERIFIED, "").split()
    if state in verified:
        return []
    damaged = []
    for name, sha256 in listed.items():
        try:
            if _sha256(folder / name) != sha256:
                damaged.append(name)
        except PermissionError:
            raise
        except (OSError, ValueError):  # missing, unreadable, or an impossible name
            damaged.append(name)
    if not damaged:
        os.environ[VERIFIED] = " ".join([*verified, state])
    return damaged


def locked(path: Path) -> AbstractContextManager[object]:
    """Return a lock on a path, held from now to the end of its ``with``.

    On a network file system, where the system's locks may silently be local to a machine, the lock is a file that only
    one process can create, and that its holder keeps renewing.

    Raises:
        OSError: the lock file cannot be written beside the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".lock")
    lock = SoftFileLease(file, lease_duration=LEASE) if network_disk(path.parent) else FileLock(file)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that prepares the same data")
        return lock.acquire()


def network_disk(path: Path) -> str | None:
    """Return the network file system that a path is on, such as nfs4; None: none, or unknown (no /proc/mounts).

    Args:
        path: need not exist.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    kind, longest = "", -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        # Of several file systems mounted at one point, the last line counts.
        if len(point.parts) >= longest and resolved.is_relative_to(point):
            kind, longest = fields[2], len(point.parts)
    return kind if kind in NETWORK else None


def problem_of(error: OSError) -> str:
    """Return a short description of a system error."""
    return "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)


def _temporary(path: Path) -> Path:
    # Not the process id: containers reuse it, and a killed run may have left such a file.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _begin(path: Path, folder: bool) -> tuple[Path, int | None]:
    """Create an empty temporary file or folder beside a path; return it and the descriptor of its lock."""
    while True:
        temporary = _temporary(path)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        try:
            return temporary, _lock(temporary)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removed it as a left-over before it was locked
        except OSError:
            return temporary, None  # a file system without locks, where no process removes left-overs


def _lock(path: Path) -> int | None:
    """Lock a file or folder and return the descriptor that holds the lock; None on Windows.

    Raises:
        BlockingIOError: another process has locked it.
        FileNotFoundError: it does not exist any more.
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        return None  # Windows can neither rename nor remove open files
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.stat()  # removed between open and lock?
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_left_overs(folder: Path) -> None:
    """Remove the files of dead writers in a folder, on which no process holds a lock.

    Not on a network file system, where locks of other machines may be invisible.
    """
    if network_disk(folder):
        return
    for path in folder.glob(f".*{TEMPORARY}"):
        with suppress(OSError):
            lock = _lock(path)
            if lock is None:
                return
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(lock)


def _listing(sums: dict[str, str]) -> str:
    """Return the content of SHA256SUMS; the number of files in it detects an incomplete file."""
    lines = [f"# SHA-256 of {len(sums)} files\n", *(f"{sha256}  {name}\n" for name, sha256 in sums.items())]
    return "".join(lines)


def _state(folder: Path, sums: dict[str, str]) -> str:
    """Return a hash that changes when a file is written to or replaced."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for name, sha256 in sums.items():
        with suppress(OSError, ValueError):
            status = (folder / name).stat()
            digest.update(f"{name} {sha256} {status.st_ino} {status.st_size} {status.st_mtime_ns} ".encode())
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(setting: str, path: str | Path) -> None:
    """Create a folder if it does not exist, and check that files can be written in it.

    Args:
        setting: the setting with the folder.
        path: the folder.

    Raises:
        SettingError: it cannot be written.
    """
    try:
        if not str(path):  # Python takes it for the current folder, Lightning for an unset one
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SettingError(setting, path, f"is no folder to write in ({error.strerror})") from error


def _sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
