"""Files and folders that are written whole or not at all, and whose damage is noticed before they are used."""

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
VERIFIED = "MINILLM_VERIFIED"  # an environment variable: processes that this one starts need not verify again
TEMPORARY = ".minillm.tmp"
MOUNTS = Path("/proc/mounts")
LEASE = 300.0  # seconds after which a lock is free that its holder, on another machine, does not touch any more
# Disks over a network, by the names that Linux has for them.
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "glusterfs"}
NETWORK |= {"panfs", "orangefs", "pvfs2", "wekafs", "ocfs2", "gfs2"}
NETWORK |= {f"fuse.{name}" for name in ("sshfs", "glusterfs", "ceph", "s3fs", "rclone", "gcsfuse", "juicefs", "goofys")}


@contextmanager
def written_whole(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; move it to ``path`` once all is on disk.

    When the block raises, or the process dies, nothing appears at ``path``. What a process that died has left there,
    ``.<name>.<number>.minillm.tmp``, the next one that writes into the same folder removes; a writer that lives holds a
    lock on its own (not on Windows, where left-overs stay).

    Args:
        path: where the file or folder shall be; a file there is replaced, a folder must not exist yet.
        folder: whether it is a folder: it is made, empty, before the block, and after it gets a ``SHA256SUMS`` of all
            its files, which `is_whole` (and ``sha256sum --check``) compares.

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
    """Return whether a folder is there as `written_whole` wrote it; remove one that is damaged, with a warning.

    Its files are read once per process and those that it starts, unless they change meanwhile. Call it where no other
    process makes the same folder, see `locked`.

    Raises:
        OutsideError: it is there, but cannot be read, or is damaged and cannot be removed.
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
        # Renamed first: a process that dies while it removes leaves a left-over, not half a folder.
        left_over = _temporary(folder)
        folder.rename(left_over)
    except OSError as error:
        problem = f"is damaged ({', '.join(damaged)}), and cannot be made again: {problem_of(error)}"
        raise OutsideError(f"{folder}: {problem}") from error
    shutil.rmtree(left_over, ignore_errors=True)
    log.warning("%s is damaged (%s), made again", folder, ", ".join(damaged))
    return False


def damaged_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are not as `written_whole` wrote them; other files do not matter.

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
        except (OSError, ValueError):  # missing, unreadable; a name that no file can have
            damaged.append(name)
    if not damaged:
        os.environ[VERIFIED] = " ".join([*verified, state])
    return damaged


def locked(path: Path) -> AbstractContextManager[object]:
    """Return a lock, held from now to the end of its ``with``, on all that is made at or from a path.

    On a disk over a network it holds over machines: there the system's locks may hold on each machine alone, without
    a word, so that it is a file which only one can make, and which its holder touches as long as it lives.

    Raises:
        OSError: nothing can be written beside the path, not even a lock.
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
    """Return the kind of the disk that a path is on, such as nfs4, where it is one over a network; else None.

    Of systems without /proc/mounts nothing is known: None.

    Args:
        path: it need not exist.
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
        # Where one is mounted over another the later line counts.
        if len(point.parts) >= longest and resolved.is_relative_to(point):
            kind, longest = fields[2], len(point.parts)
    return kind if kind in NETWORK else None


def problem_of(error: OSError) -> str:
    """Return why the system refused, in a few words."""
    return "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)


def _temporary(path: Path) -> Path:
    # Not the process id: in containers it comes again, and would meet what a killed run left.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _begin(path: Path, folder: bool) -> tuple[Path, int | None]:
    """Make an empty temporary file or folder beside a path; return it with the descriptor that holds its lock."""
    while True:
        temporary = _temporary(path)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        try:
            return temporary, _lock(temporary)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for a left-over before it was locked
        except OSError:
            return temporary, None  # a disk without locks: there nobody removes left-overs


def _lock(path: Path) -> int | None:
    """Lock a file or folder and return the descriptor that holds the lock; None on Windows.

    Raises:
        BlockingIOError: another has it locked.
        FileNotFoundError: it is not there any more.
        OSError: the disk knows no locks.
    """
    if sys.platform == "win32":
        return None  # where what is open can neither be renamed nor removed
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.stat()  # removed between open and lock?
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_left_overs(folder: Path) -> None:
    """Remove what writers that died have left in a folder: nobody holds a lock on it.

    Not on a disk over a network, where a writer on another machine may hold a lock that is not seen here.
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
    """Return the content of SHA256SUMS; its number of files tells a file that was cut short."""
    lines = [f"# SHA-256 of {len(sums)} files\n", *(f"{sha256}  {name}\n" for name, sha256 in sums.items())]
    return "".join(lines)


def _state(folder: Path, sums: dict[str, str]) -> str:
    """Return a few digits that change with any file that is written to or replaced."""
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
    """Make a folder where there is none, and write a file in it that is gone again: whether one can is known early.

    Args:
        setting: what names the folder.
        path: the folder.

    Raises:
        SettingError: nothing can be written there.
    """
    try:
        if not str(path):  # for Python it is the current folder, for Lightning a name that it makes up
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SettingError(setting, path, f"is no folder to write in ({error.strerror})") from error


def _sync(path: Path) -> None:
    """Have the system put a file's content, or a folder's entries, on disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder to sync
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
