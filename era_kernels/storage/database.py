"""Shares a SQLite file among many callers: one group-commit writer, readers that never wait."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from era_kernels.errors import StartError, StorageFailed
from era_kernels.storage import sqlite_utils_import
from era_kernels.storage.disk_room import write_with_room
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, full_disk_error
from era_kernels.storage.group_commit import GroupCommitWriter, TransactionReport
from era_kernels.storage.sqlite_utils_import import Migrations
from era_kernels.storage.threads import StorageThreads
from era_kernels.storage.unused_pages import let_file_shrink, rewrite_older

T = TypeVar("T")
# The result must not need the connection any more.
SqlFunction = Callable[[sqlite3.Connection], T]

READER_THREADS = 3  # connections and threads that read side by side
BUSY_TIMEOUT_MS = 2000  # how long statements wait for other processes, checkpoints for readers


def ignore_report(seconds: float, writes: int, failures: int) -> None:
    """Ignores a transaction, for callers that measure none."""


class Database:
    """Makes changes durable before `write` returns; `read` sees all earlier commits."""

    def __init__(
        self,
        path: Path,
        identity: tuple[int, int],
        writer: GroupCommitWriter,
        readers: list[sqlite3.Connection],
        make_room: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._writer = writer
        self._make_room = make_room
        self._readers = readers
        self._idle_readers = list(readers)
        self._threads = StorageThreads("reader", len(readers))
        self._long_reads = asyncio.Semaphore(1)

    @classmethod
    async def open(
        cls,
        path: Path,
        migrations: Migrations,
        on_transaction: TransactionReport = ignore_report,
        make_room: Callable[[], None] | None = None,
    ) -> Database:
        """Opens the file, and makes or migrates it where needed.

        `on_transaction` is called for every transaction, as `GroupCommitWriter` says; `make_room`
        (blocking) when the disk is full, before a write is tried once more. Raises
        StartError for a file that is not this server's, or a newer version's.
        """
        try:
            identity, connection, readers = await asyncio.to_thread(_open, path, migrations)
        except FOREIGN_ERRORS as error:
            raise full_disk_error(path.parent, error) or StartError(
                f"The database {path} cannot be opened ({error}): restore it from a backup, or "
                "choose another directory with --data-dir."
            ) from error
        writer = GroupCommitWriter(connection, path, on_transaction)
        return cls(path, identity, writer, readers, make_room)

    async def write(self, function: SqlFunction[T]) -> T:
        """Runs the function in a transaction, and returns its result once that is durable.

        An exception of the function undoes its own changes, and nothing else. The function runs in
        the writer's thread, also when the caller is cancelled. Raises StorageFailed,
        InsufficientStorage.
        """
        return await write_with_room(lambda: self._writer.write(function), self._make_room)

    def write_soon(
        self, function: SqlFunction[T], on_committed: Callable[[T], object] | None = None
    ) -> None:
        """Writes like `write`, in the same order, without a caller that waits; logs failures.

        On a full disk the write waits for room, and only awaited writes are tried before it.

        `on_committed` gets the result once it is durable, in the writer's thread; it must not
        raise.
        """
        self._writer.write_soon(function, on_committed)

    async def flush(self) -> None:
        """Waits until all earlier writes of `write_soon` are durable, lost, or wait for room."""
        if self._writer.has_pending:
            with suppress(StorageFailed):
                await self._writer.write(_no_op)

    async def read(self, function: SqlFunction[T]) -> T:
        """Returns the function's result; it sees one state of the file. Raises StorageFailed."""
        return await self._threads.run(self._read, function)

    async def read_long(self, function: SqlFunction[T]) -> T:
        """Does the same for what may take long: one at a time, so that others have their threads.

        A caller that is cancelled while it waits gives its place to the next. One whose function
        runs by then keeps it until the thread has done it.
        """
        await self._long_reads.acquire()
        task = asyncio.create_task(self.read(function))
        task.add_done_callback(self._on_long_read)
        return await asyncio.shield(task)

    def _on_long_read(self, task: asyncio.Task[Any]) -> None:
        self._long_reads.release()
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may have left

    async def check(self) -> None:
        """Raises StorageFailed if the file cannot be read or written, or was replaced."""
        await self.read(self._probe)
        await self.write(_no_op)

    async def aclose(self) -> None:
        """Finishes every write and read, then closes the file; a second call is fine."""
        await asyncio.to_thread(self._threads.close)
        for reader in self._readers:
            reader.close()
        # The connection that is closed last removes the WAL, which a reader may not do.
        await self._writer.aclose()

    # ------------------------------------------------------------ in a reader's thread

    def _read(self, function: SqlFunction[T]) -> T:
        connection = self._idle_readers.pop()  # as many as threads, so one is free
        try:
            connection.execute("BEGIN")
            try:
                return function(connection)
            finally:
                connection.execute("COMMIT")
        finally:
            self._idle_readers.append(connection)

    def _probe(self, connection: sqlite3.Connection) -> None:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if _identity(self._path) != self._identity:
            raise StorageFailed("The database file was replaced while the server runs.")


def _no_op(connection: sqlite3.Connection) -> None:
    """Writes nothing: only the commit counts, after all earlier writes."""


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _open(
    path: Path, migrations: Migrations
) -> tuple[tuple[int, int], sqlite3.Connection, list[sqlite3.Connection]]:
    _create_durably(path)
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(_connect(path, "rw"))
        _check_not_foreign(connections[0], path)
        let_file_shrink(connections[0])
        connections[0].execute("PRAGMA journal_mode = wal")
        connections[0].execute("PRAGMA synchronous = full")
        _migrate(connections[0], path, migrations)
        rewrite_older(connections[0])
        for _ in range(READER_THREADS):
            connections.append(_connect(path, "ro"))
            connections[-1].execute("PRAGMA query_only = on")
    except BaseException:
        for connection in connections:
            connection.close()
        raise
    return _identity(path), connections[0], connections[1:]


def _create_durably(path: Path) -> None:
    """Creates the file for its owner only; SQLite gives the WAL the same mode."""
    path.touch(mode=0o600)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,  # this module begins the transactions
        check_same_thread=False,  # only one thread at a time uses a connection
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    # SQLite may need no room outside the data directory.
    connection.execute("PRAGMA temp_store = memory")
    return connection


def _check_not_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a database of another program before anything is written to it.

    Raises StartError, sqlite3.Error.
    """
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if names and "_sqlite_migrations" not in names:
        raise StartError(
            f"The database {path} is not this server's: choose another directory with --data-dir."
        )


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    database = sqlite_utils_import.Database(connection, execute_plugins=False)
    # In an empty database, all known migrations are pending.
    with closing(sqlite_utils_import.Database(memory=True)) as empty:
        known = {migration.name for migration in migrations.pending(empty)}
    newer = {migration.name for migration in migrations.applied(database)} - known
    if newer:
        raise StartError(
            f"The data directory {path.parent} was written by a newer version of this server "
            f"({', '.join(sorted(newer))}): run that version, or choose another directory."
        )
    migrations.apply(database)
