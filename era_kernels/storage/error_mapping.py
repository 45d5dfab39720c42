"""Translates errors of SQLite and the disk into domain errors, by one table for all of storage."""

from __future__ import annotations

import errno
import sqlite3

from era_kernels.errors import InsufficientStorage, StorageFailed, StorageUnavailable

FOREIGN_ERRORS = (sqlite3.Error, OSError)

# Codes of SQLite and of the system for a full disk.
NO_SPACE_CODES: dict[type[Exception], frozenset[int]] = {
    # On a full disk, the index of the WAL may be what cannot grow.
    sqlite3.Error: frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}),
    OSError: frozenset({errno.ENOSPC, errno.EDQUOT}),
}
# The process, or the host, may open no more files for now. All others become StorageFailed.
NO_FILES_CODES = frozenset({errno.EMFILE, errno.ENFILE})


def to_domain_error(error: sqlite3.Error | OSError) -> StorageFailed:
    """Returns the domain error for a foreign one; the caller raises it `from` the foreign one."""
    if (
        _error_code(error)
        in NO_SPACE_CODES[sqlite3.Error if isinstance(error, sqlite3.Error) else OSError]
    ):
        return InsufficientStorage(
            "There is no room left where the server stores its data.",
            hint="Free disk space; nothing needs to be restarted.",
        )
    if isinstance(error, OSError) and error.errno in NO_FILES_CODES:
        return StorageUnavailable(
            "The server has no room for another open file; later it may have.", retry_after=1
        )
    return StorageFailed(f"The store failed: {_reason_text(error)}.")


def _error_code(error: sqlite3.Error | OSError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # Errors that the sqlite3 module itself finds have no code of SQLite.
    return getattr(error, "sqlite_errorcode", None)


def _reason_text(error: sqlite3.Error | OSError) -> str:
    """Returns the text of an error, without the paths that the text of an OSError holds."""
    return str(error) if isinstance(error, sqlite3.Error) else error.strerror or "I/O error"
