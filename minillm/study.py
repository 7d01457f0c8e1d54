"""The storage of a search's study: several workers share it, on one machine or on several."""

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
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(address))
