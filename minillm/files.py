"""Files and folders that are written whole or not at all."""

import errno
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write a file or a folder at; move it there once all is on disk.

    When the block raises, or the process dies, nothing appears at ``path``.

    Args:
        path: where the file or folder shall be; a file there is replaced, a folder must not exist yet.

    Raises:
        OSError: it cannot be written there.
    """
    path = Path(path)
    # Not the process id: in containers it comes again, and would meet what a killed run left.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")) if temporary.is_dir() else (temporary,):
            _sync(file)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> None:
    """Make a folder where there is none, and write a file in it that is gone again: whether one can is known early.

    Raises:
        OSError: nothing can be written there.
    """
    if not str(path):  # for Python it is the current folder, for Lightning a name that it makes up
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    Path(path).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def remove_leftovers(path: str | Path) -> None:
    """Remove what processes that were killed have left of writing a file or folder by `written_whole`.

    Args:
        path: what they wanted to write; the caller sees to it that nobody else is writing it now.

    Raises:
        OSError: it cannot be removed.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the system put a file's content, or a folder's entries, on disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder to sync
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
