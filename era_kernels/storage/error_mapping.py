"""Translates errors of SQLite and the disk into domain errors, by one table for all of storage."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from era_kernels.errors import InsufficientStorage, StartError, StorageFailed

FOREIGN_ERRORS = (sqlite3.Error, OSError)

START_ROOM = 256 * 1024  # bytes: what a start writes fits in this
# Codes of SQLite and of the system for a full disk. All others become StorageFailed.
NO_SPACE_CODES: dict[type[Exception], frozenset[int]] = {
    # On a full disk, the index of the WAL may be what cannot grow.
    sqlite3.Error: frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}),
    OSError: frozenset({errno.ENOSPC, errno.EDQUOT}),
}


def to_domain_error(error: sqlite3.Error | OSError) -> StorageFailed:
    """Returns the domain error for a foreign one; the caller raises it `from` the foreign one."""
    if _is_no_space(error):
        return InsufficientStorage(
            "There is no room left where the server stores its data.",
            hint="Free disk space; nothing needs to be restarted.",
        )
    return StorageFailed(f"The store failed: {_reason_text(error)}.")


def full_disk_error(path: Path, error: sqlite3.Error | OSError) -> StartError | None:
    """Returns the error of a start that needs room in a directory; None for another cause.

    SQLite has no code of its own for each file that cannot grow, so the disk itself is asked.
    """
    if not _is_no_space(error) and not (_may_be_no_space(error) and _is_full(path)):
        return None
    return StartError(
        f"The disk of the data directory {path} is full, and the server needs a little of it to "
        "start: free 1 MiB or more on that disk, then start again; nothing else is wrong with it."
    )


def _is_no_space(error: sqlite3.Error | OSError) -> bool:
    kind = sqlite3.Error if isinstance(error, sqlite3.Error) else OSError
    return _error_code(error) in NO_SPACE_CODES[kind]


def _may_be_no_space(error: sqlite3.Error | OSError) -> bool:
    code = _error_code(error)
    if code is None or isinstance(error, OSError):
        return False
    return code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def _is_full(path: Path) -> bool:
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < START_ROOM or (
        status.f_files > 0 and status.f_favail == 0
    )


def _error_code(error: sqlite3.Error | OSError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # Errors that the sqlite3 module itself finds have no code of SQLite.
    return getattr(error, "sqlite_errorcode", None)


def _reason_text(error: sqlite3.Error | OSError) -> str:
    """Returns the text of an error, without the paths that the text of an OSError holds."""
    return str(error) if isinstance(error, sqlite3.Error) else error.strerror or "I/O error"
