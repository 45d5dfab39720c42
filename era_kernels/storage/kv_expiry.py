"""Deletes expired keys of KV in the background, a bounded number in each transaction."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from functools import partial

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import StorageFailed
from era_kernels.models import ResourceType, StorageQuotas
from era_kernels.storage.database import Database
from era_kernels.storage.storage_usage import count_change

log = logging.getLogger(__name__)

BATCH = 200  # keys that one transaction deletes: writes of others must not wait for long
MAX_DELAY = 3600.0  # seconds after which the clock is looked at again, for it may be set
MIN_DELAY = 0.5  # seconds between two sweeps
RETRY_DELAY = 10.0  # seconds after a sweep that failed


class ExpirySweeper:
    """Waits for the next key that expires, and deletes what has expired.

    Nothing depends on its pace: expired keys are invisible from their very second on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks = BackgroundTasks()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = float("inf")  # in seconds of Unix time
        self._is_sweeping = False
        self._is_open = False

    async def open(self) -> None:
        """Finds the key that expires first, and waits for it. Raises StorageFailed."""
        self._is_open = True
        self.expect(await self._database.read(_next_expiry))

    def expect(self, expires_at: float | None) -> None:
        """Takes notice of a key that expires at a moment of Unix time."""
        if expires_at is None or not self._is_open or expires_at >= self._due_at:
            return
        self._due_at = expires_at
        if not self._is_sweeping:
            self._start_timer(expires_at - time.time())

    async def aclose(self) -> None:
        """Ends after the transaction that is under way; a second call is fine."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.aclose()

    def _start_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = min(max(delay, MIN_DELAY), MAX_DELAY)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._is_sweeping = True
        self._tasks.spawn(self._sweep())

    async def _sweep(self) -> None:
        self._due_at, delay = float("inf"), 0.0
        try:
            while self._is_open and await self._database.write(delete_expired) == BATCH:
                pass
            next_expiry = await self._database.read(_next_expiry)
            self._due_at = min(self._due_at, float("inf") if next_expiry is None else next_expiry)
        except StorageFailed as error:
            log.warning("expired keys could not be deleted", extra={"error": error.message})
            self._due_at, delay = 0.0, RETRY_DELAY
        self._is_sweeping = False
        if self._is_open and self._due_at != float("inf"):
            self._start_timer(max(self._due_at - time.time(), delay))


# ---------------------------------------------------------------- in the database's threads


def delete_expired(connection: sqlite3.Connection, limit: int = BATCH) -> int:
    """Deletes expired keys, at most `limit` of them; returns how many it deleted."""
    rows = connection.execute(
        """
        SELECT rowid, namespace, size, length(CAST(key || coalesce(metadata, '') AS BLOB))
        FROM kv INDEXED BY kv_expiring WHERE expires_at <= ? ORDER BY expires_at LIMIT ?
        """,
        (time.time(), limit),
    ).fetchall()
    connection.executemany("DELETE FROM kv WHERE rowid = ?", [(row[0],) for row in rows])
    uncount = partial(count_change, connection, StorageQuotas(), ResourceType.KV)
    for namespace in {row[1] for row in rows}:
        mine = [row for row in rows if row[1] == namespace]
        size, overhead = sum(row[2] for row in mine), sum(row[3] for row in mine)
        uncount(namespace, count=-len(mine), size=-size, overhead=-overhead)
    return len(rows)


def _next_expiry(connection: sqlite3.Connection) -> float | None:
    found: float | None = connection.execute(
        "SELECT min(expires_at) FROM kv WHERE expires_at IS NOT NULL"
    ).fetchone()[0]
    return found
