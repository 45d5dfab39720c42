"""Opens databases with everything switched off that hostile SQL could use, and keeps some open."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from era_kernels.storage.d1.worker.authorizer import SHADOW_SUFFIXES, Authorizer
from era_kernels.storage.d1.worker.outcomes import Outcome, RequestFailed
from era_kernels.storage.d1.worker.room import SMALL_LOG, log_size

MAX_OPEN = 8  # connections of one worker: 64 in all workers, of which there are at most 8
PROGRESS_STEPS = 5_000  # steps of SQLite's machine between two looks at the deadline
MAX_MEMORY = 512 * 1024 * 1024  # bytes of a worker
BUSY_TIMEOUT = 2.0  # seconds to wait for other processes, such as a backup
MIB = 1024 * 1024
# What ends the path of a URI for SQLite, and what stands for it; `urllib` takes 8 ms to import.
_ESCAPED = str.maketrans({"%": "%25", "?": "%3f", "#": "%23"})

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 32 * MIB,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MIB,
    sqlite3.SQLITE_LIMIT_COLUMN: 1000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 200,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 1_000_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 32_766,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 32,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_PRAGMAS = (
    "trusted_schema = off",
    "cell_size_check = on",
    "foreign_keys = on",
    "recursive_triggers = off",
    "synchronous = full",
    "temp_store = memory",  # SQLite writes nothing outside the data directory
    "cache_size = -4000",
    f"journal_size_limit = {SMALL_LOG}",
    "secure_delete = fast",  # pages that become free are not written: DROP needs no room for them
    f"hard_heap_limit = {320 * MIB}",  # of the process; below its RLIMIT_DATA
)
# Python 3.12 can switch on SQLite's own defences; the authorizer denies the same before it.
_DEFENSIVE = getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE", None)


class OpenDatabase:
    """One connection to one database, and what must be known about its schema."""

    def __init__(self, connection: sqlite3.Connection, authorizer: Authorizer, path: str) -> None:
        self.connection = connection
        self.authorizer = authorizer
        self.path = path
        self.directory = _directory_of(path)
        self.schema_version = -1
        self._max_pages = 0
        self._page_size = 0
        self._data_version = -1
        self._size = 0

    def own(self, sql: str) -> int:
        """Runs a statement of the worker itself, which may do all; returns its number, else 0."""
        self.authorizer.is_trusted = True
        row = self.connection.execute(sql).fetchone()
        return row[0] if row is not None else 0

    def refresh_if_changed(self) -> None:
        """Looks at schema and size again, when another connection changed the database."""
        version = self.own("PRAGMA data_version")
        if version != self._data_version:
            self.refresh_schema()
            self._size = self.size()
            self._data_version = version

    @property
    def known_size(self) -> int:
        """The bytes of the database, as they were at `refresh_if_changed`."""
        return self._size

    def refresh_schema(self) -> None:
        """Learns which tables are shadow tables, where the schema is not the one known so far."""
        version = self.own("PRAGMA schema_version")
        if version == self.schema_version:
            return
        names = [
            name
            for (name,) in self.connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0"
            )
        ]
        self.authorizer.shadow_tables = frozenset(
            name.lower() + suffix for name in names for suffix in SHADOW_SUFFIXES
        )
        for name in names:
            # Now, and not while a user's statement is checked, they prepare their own statements.
            quoted = name.replace('"', '""')
            with suppress(sqlite3.Error):  # a broken one is the user's own error, later
                self.connection.execute(f'SELECT 1 FROM "{quoted}" LIMIT 0').close()
        # Triggers that keep a full-text index are what most such databases have; without trust,
        # SQLite before 3.41 refuses them. The authorizer looks at triggers, too.
        self.own(f"PRAGMA trusted_schema = {'on' if names else 'off'}")
        self.schema_version = version

    def limit_size(self, max_size: int) -> None:
        """Lets the database grow to that many bytes."""
        self._page_size = self._page_size or self.own("PRAGMA page_size")
        pages = max(1, max_size // self._page_size)
        if pages != self._max_pages:
            self.own(f"PRAGMA max_page_count = {pages}")
            self._max_pages = pages

    def give_log_back(self, kept: int = SMALL_LOG) -> bool:
        """Empties a write-ahead log of more than `kept` bytes; returns False where it must stay.

        It stays while somebody else reads what was there before.
        """
        if log_size(self.path) <= kept:
            return True
        self.own("PRAGMA busy_timeout = 0")
        try:
            return not self.own("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.own(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT * 1000)}")

    def size(self) -> int:
        """Returns the bytes of the database."""
        self._page_size = self._page_size or self.own("PRAGMA page_size")
        return self.own("PRAGMA page_count") * self._page_size


class OpenDatabases:
    """Keeps the databases open that were used last."""

    def __init__(self, is_interrupted: Callable[[], bool]) -> None:
        self._is_interrupted = is_interrupted
        self._open: OrderedDict[tuple[str, bool], OpenDatabase] = OrderedDict()

    def get(self, path: str, is_read_only: bool) -> OpenDatabase:
        """Returns the database in this file, which is made where it may be written.

        One that does not exist is an empty one for readers. Raises RequestFailed, sqlite3.Error.
        """
        key = (path, is_read_only)
        found = self._open.get(key)
        if found is not None:
            self._open.move_to_end(key)
            return found
        if is_read_only and not os.path.lexists(path):
            key = ("", True)
            if key in self._open:
                return self._open[key]
        while len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].connection.close()
        self._open[key] = _open(path if key[0] else "", is_read_only, self._is_interrupted)
        return self._open[key]

    def close(self) -> None:
        """Closes all, and empties the write-ahead logs that nobody else uses."""
        paths = {path for path, _ in self._open if path}
        for found in self._open.values():
            found.connection.close()
        self._open.clear()
        for path in paths:
            # A reader that is closed last leaves the log behind, a writer does not.
            if os.path.exists(f"{path}-wal"):  # noqa: PTH110 - no pathlib, as below
                with suppress(sqlite3.Error):
                    connection = _connect(path, is_read_only=False)
                    connection.execute("PRAGMA schema_version").fetchone()
                    connection.close()

    def forget(self, path: str) -> None:
        """Closes the connections to a file, after an error that they may not have survived."""
        for key in ((path, True), (path, False)):
            if (found := self._open.pop(key, None)) is not None:
                found.connection.close()


def _open(path: str, is_read_only: bool, is_interrupted: Callable[[], bool]) -> OpenDatabase:
    if path and not is_read_only:
        _create_durably(path, _directory_of(path))
    connection = _connect(path, is_read_only)
    try:
        _configure(connection, is_read_only=is_read_only, is_file=bool(path))
        # The pragma itself: a table of the user may have the name `pragma_module_list`.
        rows = connection.execute("PRAGMA module_list").fetchall()
        modules = [name for (name,) in rows if not name.startswith("pragma_")]
        authorizer = Authorizer(is_read_only, modules)
        connection.set_authorizer(authorizer)
        # SQLite takes what is true for a wish to stop.
        connection.set_progress_handler(is_interrupted, PROGRESS_STEPS)
    except BaseException:
        connection.close()
        raise
    return OpenDatabase(connection, authorizer, path)


def _directory_of(path: str) -> str:
    return os.path.dirname(path) or "/"  # noqa: PTH120 - pathlib would double the start time


def _connect(path: str, is_read_only: bool) -> sqlite3.Connection:
    mode = "ro" if is_read_only else "rwc"
    return sqlite3.connect(
        f"file:{path.translate(_ESCAPED)}?mode={mode}" if path else ":memory:",
        uri=True,
        isolation_level=None,  # the worker begins the transactions
        timeout=BUSY_TIMEOUT,
        # A statement of the worker that was compiled without its rules must not be found by the
        # same words of a user.
        cached_statements=0,
    )


def _configure(connection: sqlite3.Connection, *, is_read_only: bool, is_file: bool) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    for category, value in LIMITS.items():
        connection.setlimit(category, value)
    if _DEFENSIVE is not None:
        connection.setconfig(_DEFENSIVE, True)  # type: ignore[attr-defined,unused-ignore]
    # Text need not be UTF-8 in SQLite; what is not becomes U+FFFD.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    if is_read_only:
        connection.execute("PRAGMA query_only = on")
    elif is_file:
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            connection.execute("PRAGMA auto_vacuum = incremental")
        if connection.execute("PRAGMA journal_mode = wal").fetchone()[0] != "wal":
            raise RequestFailed(Outcome.FAILED, "the file cannot have a write-ahead log")


def _create_durably(path: str, directory: str) -> None:
    """Creates the file for its owner only; SQLite gives the others of it the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
