"""What SQLite and the disk raise, in domain words: one table, used wherever storage meets them."""

from __future__ import annotations

import errno
import sqlite3

from era_kernels.errors import InsufficientStorage, StorageFailed

FOREIGN_ERRORS = (sqlite3.Error, OSError)

# What says that there is no room: SQLite's codes and the system's. All else is StorageFailed.
NO_SPACE_CODES: dict[type[Exception], frozenset[int]] = {
    # A full disk also shows when the index of the WAL cannot grow.
    sqlite3.Error: frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}),
    OSError: frozenset({errno.ENOSPC, errno.EDQUOT}),
}


def to_domain_error(error: sqlite3.Error | OSError) -> StorageFailed:
    """The domain error that stands for a foreign one; raise it `from` that one."""
    if (
        _error_code(error)
        in NO_SPACE_CODES[sqlite3.Error if isinstance(error, sqlite3.Error) else OSError]
    ):
        return InsufficientStorage(
            "There is no room left where the server stores its data.",
            hint="Free disk space; nothing needs to be restarted.",
        )
    return StorageFailed(f"The store failed: {_reason_text(error)}.")


def _error_code(error: sqlite3.Error | OSError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # Errors that the sqlite3 module finds by itself have no code of SQLite's.
    return getattr(error, "sqlite_errorcode", None)


def _reason_text(error: sqlite3.Error | OSError) -> str:
    """Without the paths that the text of an OSError holds."""
    return str(error) if isinstance(error, sqlite3.Error) else error.strerror or "I/O error"
