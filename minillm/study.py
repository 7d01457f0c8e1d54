"""The storage of a search's study, which several workers can share, also on several machines."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(address: str) -> "str | BaseStorage":
    """Return the storage at an address, for Optuna.

    Args:
        address: the path of a journal, a file to which each worker appends under a lock that also works on a network
            file system (SQLite's does not); or a database's SQLAlchemy URL, with ``://``.

    Raises:
        OSError: the journal cannot be written.
    """
    if "://" in address:
        return address
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.storages.journal._file import get_lock_file

    # Optuna's other lock, a symbolic link, never expires if its path is relative, and needs privileges on Windows.
    lock = JournalFileOpenLock(address)
    with get_lock_file(lock):
        _cut_torn_line(Path(address))
    return JournalStorage(JournalFileBackend(address, lock))


def _cut_torn_line(journal: Path) -> None:
    """Remove an incomplete last line, left by a crash or a full disk: Optuna would read nothing after it."""
    if not journal.is_file():
        return
    with journal.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
