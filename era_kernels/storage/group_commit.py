"""Writes to a SQLite file from one thread, which commits all waiting writes as one transaction.

Group commit: while one commit waits for the disk, the next batch gathers, so that many callers
share the cost of one fsync. Writes that no caller awaits are gathered for a moment, and do not
even wake the thread until then, so that a run's few rows cost the run next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from era_kernels.errors import InsufficientStorage, StorageFailed
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, to_domain_error
from era_kernels.storage.unused_pages import GIVE_SECONDS, UnusedPages

log = logging.getLogger(__name__)

T = TypeVar("T")
# Takes the seconds of a transaction, its number of writes, and how many of them failed.
TransactionReport = Callable[[float, int, int], object]

MAX_BATCH = 256  # writes in one transaction: the first must not wait for an endless queue
GATHER_SECONDS = 0.01  # seconds that an unawaited write waits for others
MAX_WAITING_FOR_SPACE = 10_000  # unawaited writes that wait for room on a full disk
IDLE_SECONDS = 1.0  # seconds without a write after which the WAL is written back
MAX_WAL_BYTES = 64 * 1024 * 1024  # size of the WAL from which it is written back even if busy


@dataclass(slots=True)
class Write:
    """One function to run in a transaction; `future` is None where no caller awaits it.

    `on_committed` gets the function's result once it is committed, in the writer's thread.
    """

    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None = None
    on_committed: Callable[[Any], object] | None = None


@dataclass(slots=True)
class WriteResult:
    """The result of a write, or the error that it raised."""

    result: Any = None
    error: Exception | None = None


class GroupCommitWriter:
    """Owns the only writing connection, in autocommit mode, to a file in WAL mode."""

    def __init__(
        self, connection: sqlite3.Connection, file: Path, on_transaction: TransactionReport
    ) -> None:
        """Starts the thread; it calls `on_transaction` after every transaction.

        `on_transaction` must not raise.
        """
        self._connection = connection
        self._on_transaction = on_transaction
        self._wal = file.with_name(f"{file.name}-wal")
        self._queue: queue.SimpleQueue[list[Write] | None] = queue.SimpleQueue()
        self._gathered: list[Write] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_for_space: list[Write] = []  # in the order of the calls
        self._is_dirty = False
        self._unused_pages = UnusedPages(connection)
        self._is_open = True
        self._soon_queued = 0  # counted by the callers' thread
        self._soon_done = 0  # counted by the writer's
        self._thread = threading.Thread(target=self._run_thread, name="era-writer", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def has_pending(self) -> bool:
        """True while an unawaited write is not committed yet."""
        return self._soon_queued != self._soon_done

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Runs the function, and returns its result once that is committed.

        Raises what the function raises, StorageFailed, InsufficientStorage.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._gather(Write(function, future))
        self._submit_gathered()
        return await future

    def write_soon(
        self,
        function: Callable[[sqlite3.Connection], T],
        on_committed: Callable[[T], object] | None = None,
    ) -> None:
        """Commits a write with the next batch, or on a full disk when there is room again.

        The function may run again after what it did was undone. Any other failure is logged.
        `on_committed` must not raise.
        """
        self._gather(Write(function, None, on_committed))
        self._soon_queued += 1
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_SECONDS, self._submit_gathered)

    async def aclose(self) -> None:
        """Commits waiting writes, writes the WAL back, closes the connection; may be repeated."""
        if self._is_open:
            self._is_open = False
            self._submit_gathered()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _gather(self, write: Write) -> None:
        if not self._is_open:
            raise StorageFailed("The store is closed.")
        self._gathered.append(write)

    def _submit_gathered(self) -> None:
        """Hands the gathered writes to the thread, in the order of the calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    # ------------------------------------------------------------ in the thread

    def _run_thread(self) -> None:
        may_continue = True
        while may_continue:
            try:
                first = self._queue.get(timeout=self._rest_seconds())
            except queue.Empty:
                self._process([])
                self._unused_pages.give_back()
                # The WAL keeps its size: growing it again would slow the next commits down.
                self._checkpoint_wal("PASSIVE")
                continue
            batch, may_continue = self._collect_batch(first)
            if batch:
                self._process(batch)
                self._unused_pages.give_back()
        self._process([])
        if self._waiting_for_space:
            log.error(
                "writes found no room until the end", extra={"count": len(self._waiting_for_space)}
            )
        self._close_connection()

    def _rest_seconds(self) -> float | None:
        """Returns how long the thread waits for a write before it tidies up; None: for ever."""
        if self._unused_pages.are_many:
            return GIVE_SECONDS
        return IDLE_SECONDS if self._is_dirty or self._waiting_for_space else None

    def _collect_batch(self, writes: list[Write] | None) -> tuple[list[Write], bool]:
        """Collects waiting writes, up to a full batch; the flag is False once the writer closes."""
        batch: list[Write] = []
        while writes is not None:
            batch += writes
            if len(batch) >= MAX_BATCH:
                return batch, True
            try:
                writes = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _process(self, batch: Sequence[Write]) -> None:
        """Processes writes that wait for room first: no later unawaited write may overtake them."""
        waiting, self._waiting_for_space = self._waiting_for_space, []
        if waiting:
            self._commit_and_report(waiting)
        if self._waiting_for_space:
            for write in [write for write in batch if write.future is None]:
                self._wait_for_space(write)
            batch = [write for write in batch if write.future is not None]
        if batch:
            self._commit_and_report(batch)

    def _commit_and_report(self, batch: Sequence[Write]) -> None:
        started_at = time.monotonic()
        try:
            results = self._commit(batch)
        except Exception as failure:
            results = [WriteResult(error=failure) for _ in batch]
        failed = sum(isinstance(outcome.error, FOREIGN_ERRORS) for outcome in results)
        self._on_transaction(time.monotonic() - started_at, len(batch), failed)
        self._is_dirty = True
        waiting = []
        for write, outcome in zip(batch, results, strict=True):
            error = _translate_error(outcome.error)
            if write.future is not None:
                waiting.append((write.future, outcome.result, error))
            else:
                self._finish_unawaited(write, outcome.result, error)
        if waiting:
            self._loop.call_soon_threadsafe(_resolve_futures, waiting)
        if _file_size(self._wal) > MAX_WAL_BYTES:
            self._checkpoint_wal("TRUNCATE")

    def _finish_unawaited(self, write: Write, result: Any, error: Exception | None) -> None:
        if isinstance(error, InsufficientStorage):
            self._wait_for_space(write)
            return
        if error is not None:
            log.error("a write that nobody waits for is lost", exc_info=error)
        elif write.on_committed is not None:
            write.on_committed(result)
        self._soon_done += 1

    def _wait_for_space(self, write: Write) -> None:
        if len(self._waiting_for_space) < MAX_WAITING_FOR_SPACE:
            self._waiting_for_space.append(write)
            return
        log.error("a write that nobody waits for is lost: too many wait for room")
        self._soon_done += 1

    def _commit(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Runs and commits a batch; raises the error that made all of it fail.

        Unawaited writes rarely fail: a batch of them is tried without a savepoint for each, which
        would be most of its statements.
        """
        if all(write.future is None for write in batch):
            with suppress(Exception):
                return self._run_transaction(batch, self._run_unprotected)
        return self._run_transaction(batch, self._run_write)

    def _run_transaction(
        self, batch: Sequence[Write], run: Callable[[Write], WriteResult]
    ) -> list[WriteResult]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [run(write) for write in batch]
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return results

    def _run_unprotected(self, write: Write) -> WriteResult:
        return WriteResult(write.function(self._connection))

    def _run_write(self, write: Write) -> WriteResult:
        """Runs one write in a savepoint of its own."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            outcome = WriteResult(write.function(connection))
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite itself rolled the whole batch back, as it does on a full disk
            connection.execute("ROLLBACK TO job")
            outcome = WriteResult(error=error)
        connection.execute("RELEASE job")
        return outcome

    def _checkpoint_wal(self, mode: str) -> None:
        """Moves the WAL into the database: all (TRUNCATE), or what no reader needs (PASSIVE)."""
        self._is_dirty = False
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            log.warning("the WAL could not be written back", extra={"error": str(error)})

    def _close_connection(self) -> None:
        try:
            self._connection.execute("PRAGMA optimize")
            self._checkpoint_wal("TRUNCATE")
        except sqlite3.Error as error:
            log.warning("the database was closed untidily", extra={"error": str(error)})
        finally:
            self._connection.close()


def _translate_error(error: Exception | None) -> Exception | None:
    """Makes a domain error for one caller: a shared exception would grow a traceback from each."""
    if not isinstance(error, FOREIGN_ERRORS):
        return error
    failure = to_domain_error(error)
    failure.__cause__ = error
    return failure


def _resolve_futures(waiting: Sequence[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in waiting:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
