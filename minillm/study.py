"""The storage of a search's study: several workers share it, on one machine or on several."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(address: str) -> "str | BaseStorage":
    """Return what Optuna takes for the storage at an address.

    Args:
        address: a path: a journal, a file to which every worker appends under a lock that holds on a network disk too
            (SQLite's does not); or a database's address with ``://``, as SQLAlchemy has it.

    Raises:
        OSError: the journal cannot be written.
    """
    if "://" in address:
        return address
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.storages.journal._file import get_lock_file

    # Optuna's other lock, a symbolic link, never expires where its path is relative, and needs rights on Windows.
    lock = JournalFileOpenLock(address)
    with get_lock_file(lock):
        _cut_torn_line(Path(address))
    return JournalStorage(JournalFileBackend(address, lock))


def _cut_torn_line(journal: Path) -> None:
    """Cut off a line that a crash or a full disk left unfinished: Optuna would read nothing that comes after it."""
    if not journal.is_file():
        return
    with journal.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
