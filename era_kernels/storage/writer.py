"""The one writer of a SQLite file: a thread that commits what waits as one transaction.

Group commit: while one commit waits for the disk, the next batch gathers, so many callers share
the price of one fsync. What nobody waits for is gathered for a moment, and does not even wake the
thread until then, so that a run's few notes cost it next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from era_kernels.errors import InsufficientStorage, StorageFailed
from era_kernels.storage.failures import FOREIGN, failure_of

log = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[float, int, int], object]  # seconds, writes, and how many of them failed

MOST_AT_ONCE = 256  # jobs in one transaction: the first must not wait for an endless queue
GATHER = 0.01  # seconds that a write waits for others when nobody waits for it
MOST_HELD = 10_000  # writes that nobody waits for and that wait for room on a full disk
IDLE = 1.0  # seconds without a write after which the WAL is written back
WAL_BYTES = 64 * 1024 * 1024  # size of the WAL from which it is written back even if busy


@dataclass(slots=True)
class Job:
    """One function to run in a transaction, and who waits for it; nobody does where it is None.

    `after` gets the function's result once it is committed, in the writer's thread.
    """

    function: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any] | None = None
    after: Callable[[Any], object] | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a job."""

    result: Any = None
    error: Exception | None = None


class Writer:
    """Owns the only writing connection, in autocommit mode, of a file in WAL mode."""

    def __init__(self, connection: sqlite3.Connection, file: Path, report: Report) -> None:
        """`report` is told of every transaction, in the writer's thread; it must not raise."""
        self._connection = connection
        self._report = report
        self._wal = file.with_name(f"{file.name}-wal")
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._gathered: list[Job] = []
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[Job] = []  # in their order
        self._dirty = False
        self._open = True
        self._soon_queued = 0  # counted by the callers' thread
        self._soon_done = 0  # counted by the writer's
        self._thread = threading.Thread(target=self._work, name="era-writer", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Something that nobody waits for is not committed yet."""
        return self._soon_queued != self._soon_done

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What the function returns, once it is committed. Raises what it raises, StorageFailed."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._gather(Job(function, answer))
        self._hand_over()
        return await answer

    def write_soon(
        self,
        function: Callable[[sqlite3.Connection], T],
        after: Callable[[T], object] | None = None,
    ) -> None:
        """Commit it with the next batch, on a full disk when there is room again.

        Any other failure is logged. `after` must not raise.
        """
        self._gather(Job(function, None, after))
        self._soon_queued += 1
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER, self._hand_over)

    async def aclose(self) -> None:
        """Commit what waits, tidy up, close the connection; a second call is fine."""
        if self._open:
            self._open = False
            self._hand_over()
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _gather(self, job: Job) -> None:
        if not self._open:
            raise StorageFailed("The store is closed.")
        self._gathered.append(job)

    def _hand_over(self) -> None:
        """To the thread, in the order of the calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered:
            self._jobs.put(self._gathered)
            self._gathered = []

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        more = True
        while more:
            try:
                first = self._jobs.get(timeout=IDLE if self._dirty or self._held else None)
            except queue.Empty:
                self._settle([])
                # The file keeps its size: growing anew would slow the next commits down.
                self._write_back("PASSIVE")
                continue
            batch, more = self._batch(first)
            if batch:
                self._settle(batch)
        self._settle([])
        if self._held:
            log.error("writes found no room until the end", extra={"count": len(self._held)})
        self._finish()

    def _batch(self, jobs: list[Job] | None) -> tuple[list[Job], bool]:
        """Everything that waits, and whether more may come."""
        batch: list[Job] = []
        while jobs is not None:
            batch += jobs
            if len(batch) >= MOST_AT_ONCE:
                return batch, True
            try:
                jobs = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _settle(self, batch: Sequence[Job]) -> None:
        """First what found no room before: it is not to be overtaken by its like."""
        held, self._held = self._held, []
        if held:
            self._perform(held)
        if self._held:
            for job in [job for job in batch if job.answer is None]:
                self._hold(job)
            batch = [job for job in batch if job.answer is not None]
        if batch:
            self._perform(batch)

    def _perform(self, batch: Sequence[Job]) -> None:
        began = time.monotonic()
        try:
            outcomes = self._commit(batch)
        except Exception as failure:
            outcomes = [Outcome(error=failure) for _ in batch]
        failed = sum(isinstance(outcome.error, FOREIGN) for outcome in outcomes)
        self._report(time.monotonic() - began, len(batch), failed)
        self._dirty = True
        waiting = []
        for job, outcome in zip(batch, outcomes, strict=True):
            error = _in_our_words(outcome.error)
            if job.answer is not None:
                waiting.append((job.answer, outcome.result, error))
            else:
                self._conclude(job, outcome.result, error)
        if waiting:
            self._loop.call_soon_threadsafe(_tell, waiting)
        if _size(self._wal) > WAL_BYTES:
            self._write_back("TRUNCATE")

    def _conclude(self, job: Job, result: Any, error: Exception | None) -> None:
        if isinstance(error, InsufficientStorage):
            self._hold(job)
            return
        if error is not None:
            log.error("a write that nobody waits for is lost", exc_info=error)
        elif job.after is not None:
            job.after(result)
        self._soon_done += 1

    def _hold(self, job: Job) -> None:
        if len(self._held) < MOST_HELD:
            self._held.append(job)
            return
        log.error("a write that nobody waits for is lost: too many wait for room")
        self._soon_done += 1

    def _commit(self, batch: Sequence[Job]) -> list[Outcome]:
        """Run and commit the batch; raises what made all of it fail."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [self._run(job) for job in batch]
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

    def _run(self, job: Job) -> Outcome:
        """Run one job in a savepoint of its own."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            outcome = Outcome(job.function(connection))
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite itself rolled the whole batch back, as it does on a full disk
            connection.execute("ROLLBACK TO job")
            outcome = Outcome(error=error)
        connection.execute("RELEASE job")
        return outcome

    def _write_back(self, mode: str) -> None:
        """Move the WAL into the database: what no reader needs (PASSIVE), or all (TRUNCATE)."""
        self._dirty = False
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            log.warning("the WAL could not be written back", extra={"error": str(error)})

    def _finish(self) -> None:
        try:
            self._connection.execute("PRAGMA optimize")
            self._write_back("TRUNCATE")
        except sqlite3.Error as error:
            log.warning("the database was closed untidily", extra={"error": str(error)})
        finally:
            self._connection.close()


def _in_our_words(error: Exception | None) -> Exception | None:
    """One exception for one waiter: what many shared would grow a traceback from each."""
    if not isinstance(error, FOREIGN):
        return error
    failure = failure_of(error)
    failure.__cause__ = error
    return failure


def _tell(waiting: Sequence[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for answer, result, error in waiting:
        if answer.done():  # its caller was cancelled
            continue
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
