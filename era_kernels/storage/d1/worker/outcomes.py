"""Names how a request to a worker can end, and finds the name for an error of SQLite."""

from __future__ import annotations

import os
import sqlite3
from enum import StrEnum

_PROBE_BYTES = 1024 * 1024  # what must fit on the disk, for a full database to be its own limit


class Outcome(StrEnum):
    """How a request ended. All but `DONE` leave the database as it was."""

    DONE = "done"
    SQL_ERROR = "sql_error"
    READ_ONLY = "read_only"
    BAD_PARAMS = "bad_params"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    TOO_MANY_ROWS = "too_many_rows"
    RESULT_TOO_LARGE = "result_too_large"
    DATABASE_FULL = "database_full"
    DISK_FULL = "disk_full"
    DISK_RESERVED = "disk_reserved"  # what room is left is not for this
    OUT_OF_MEMORY = "out_of_memory"
    BUSY = "busy"
    FAILED = "failed"


class RequestFailed(Exception):
    """A request that ended otherwise than `DONE`, with SQLite's sentence where there is one."""

    def __init__(self, outcome: Outcome, details: str = "", reason: str = "") -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.details = details
        self.reason = reason  # why the authorizer refused it


_BY_CODE = {
    sqlite3.SQLITE_READONLY: Outcome.READ_ONLY,
    sqlite3.SQLITE_INTERRUPT: Outcome.TIMEOUT,
    sqlite3.SQLITE_NOMEM: Outcome.OUT_OF_MEMORY,
    sqlite3.SQLITE_BUSY: Outcome.BUSY,
    sqlite3.SQLITE_PROTOCOL: Outcome.BUSY,
    sqlite3.SQLITE_IOERR: Outcome.FAILED,
    sqlite3.SQLITE_CORRUPT: Outcome.FAILED,
    sqlite3.SQLITE_NOTADB: Outcome.FAILED,
    sqlite3.SQLITE_CANTOPEN: Outcome.FAILED,
    sqlite3.SQLITE_PERM: Outcome.FAILED,
}
_BY_EXTENDED_CODE = {
    # A full-text index that does not fit its content: SQL made it, SQL can rebuild it.
    sqlite3.SQLITE_CORRUPT_VTAB: Outcome.SQL_ERROR,
    sqlite3.SQLITE_IOERR_NOMEM: Outcome.OUT_OF_MEMORY,
    sqlite3.SQLITE_IOERR_SHMSIZE: Outcome.DISK_FULL,
}


def outcome_of(error: Exception, directory: str) -> Outcome:
    """Returns how a request ended that failed with this error of SQLite or of its module."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # the module's own: wrong parameters, text that is too long
        return Outcome.SQL_ERROR
    # A file may not grow past RLIMIT_FSIZE, which is an error of writing.
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE:
        return Outcome.DATABASE_FULL if _has_room(directory) else Outcome.DISK_FULL
    return _BY_EXTENDED_CODE.get(code) or _BY_CODE.get(code & 0xFF, Outcome.SQL_ERROR)


def _has_room(directory: str) -> bool:
    """Returns True when the disk takes another file: SQLite says `full` for its own limit, too."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(descriptor, 0, _PROBE_BYTES)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
