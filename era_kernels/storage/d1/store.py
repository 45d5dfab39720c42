"""Stores the databases of D1: one file for each namespace, which only workers open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, InsufficientStorage, StorageFailed, TooLarge
from era_kernels.json_codec import dumps_async
from era_kernels.json_incremental import LARGE_BYTES
from era_kernels.models import StorageQuotas
from era_kernels.storage.d1.files import SUFFIX, find_databases, has_log, size_with_log
from era_kernels.storage.d1.replies import (
    D1Limits,
    D1Result,
    error_of,
    results_of,
    timeout_error,
)
from era_kernels.storage.d1.table_index import (
    allowed_size,
    count_size,
    counted_sizes,
    replace_tables,
)
from era_kernels.storage.d1.worker.outcomes import Outcome
from era_kernels.storage.d1.worker_pool import WORKERS, DeadlinePassed, Job, WorkerPool
from era_kernels.storage.d1.worker_process import Reply, WorkerEnded, WorkerProcess
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room, none_to_leave

MAX_SQL = 1024 * 1024  # bytes of the SQL of one entry
MAX_ENTRIES = 10_000  # of one batch
REFRESH_SECONDS = 1.0  # between two looks at the sizes of one database
REFRESH_TIMEOUT = 10.0  # seconds that such a look may take
CLOSE_SECONDS = 5.0  # until what still runs is ended
_FILE_SLACK = 64 * 1024 * 1024  # bytes that a write-ahead log may have beyond the database


@dataclass(frozen=True, slots=True)
class D1Statement:
    """SQL with its parameters: a list, an object by names, or None.

    Values are what JSON has, of integers those of 64 bits; a blob is `{"base64": "…"}`.
    """

    sql: str
    params: list[Any] | dict[str, Any] | None = None


@dataclass(slots=True)
class _Change:
    """What changed in a database since its tables were looked at."""

    size: int = 0
    tables: set[str] = field(default_factory=set)
    is_new: bool = True  # it came after the last look began


class D1Store:
    """Reads and writes databases by SQL, which may be hostile: it runs in workers alone."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        limits: D1Limits | None = None,
        quotas: StorageQuotas | None = None,
        workers: int = WORKERS,
        check_room: Callable[[], None] = always_room,
        find_least_free: Callable[[], int] = none_to_leave,
    ) -> None:
        """Keeps the files in `directory`, made when it is needed, and their index in era.db.

        `check_room` raises InsufficientStorage when nothing new is to be stored: then databases are
        only read, and made emptier by DELETE and DROP. `find_least_free` tells the bytes that no
        change may take of the disk.
        """
        self._check_room, self._find_least_free = check_room, find_least_free
        self._database = database
        self._directory = directory
        self._limits = limits or D1Limits()
        self._quotas = quotas or StorageQuotas()
        max_file = 2 * self._limits.max_database + _FILE_SLACK
        self.workers = WorkerPool(
            lambda: WorkerProcess.start(max_file, self._limits.max_result + MAX_SQL), workers
        )
        self._tasks = BackgroundTasks(expected_errors=(EraError,))
        self._changes: dict[str, _Change] = {}  # by namespace
        self._closing = asyncio.Event()

    async def open(self) -> None:
        """Looks again at databases that changed without being counted, before a crash.

        Their logs count until then, and are emptied by it.
        """
        counted = await self._database.read(counted_sizes)
        found = await asyncio.to_thread(find_databases, self._directory)
        for namespace in counted.keys() - found.keys():
            await self._database.write(partial(replace_tables, namespace, [], (), 0))
        for namespace, (size, is_clean) in found.items():
            if not is_clean or counted.get(namespace) != size:
                self._note_change(namespace, size, ())

    async def query(
        self,
        namespace: str,
        statement: D1Statement,
        *,
        size: int = 0,
        abandoned: asyncio.Future[None] | None = None,
    ) -> D1Result:
        """Returns the rows of one statement that only reads; `size` is about that of the request.

        A database that does not exist is empty. Once `abandoned` is done, the statement is stopped
        and CancelledError raised, as when the caller is cancelled. Raises SqlError, SqlReadOnly,
        SqlTimeout, TooLarge, StorageFailed, Unavailable.
        """
        max_size = self._limits.max_database
        request = await self._request("query", namespace, [statement], max_size, size)
        job = Job(namespace, False, request, self._limits.timeout, abandoned=abandoned)
        [result] = results_of(await self._run(job, max_size))
        return result

    async def execute(self, namespace: str, statement: D1Statement, *, size: int = 0) -> D1Result:
        """Runs one statement, or several without parameters, in one transaction.

        The rows are those of the last statement that has columns. Raises as `query` does, and
        QuotaExceeded, InsufficientStorage; then nothing has changed.
        """
        [result] = await self.batch(namespace, [statement], size=size)
        return result

    async def batch(
        self, namespace: str, statements: Sequence[D1Statement], *, size: int = 0
    ) -> list[D1Result]:
        """Runs statements in one transaction; returns the result of each. Raises as `execute`.

        It runs to its end when the caller is cancelled.
        """
        if not statements:
            return []
        if len(statements) > MAX_ENTRIES:
            raise TooLarge(f"The batch has more than {MAX_ENTRIES} entries.")
        return await self._tasks.run_shielded(self._write(namespace, statements, size))

    async def aclose(self) -> None:
        """Ends what runs, and counts what changed; a second call is fine."""
        self._closing.set()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._tasks.aclose()
        except TimeoutError:
            pass
        await self.workers.aclose()
        await self._tasks.aclose()

    # ------------------------------------------------------------ requests

    async def _write(
        self, namespace: str, statements: Sequence[D1Statement], size: int
    ) -> list[D1Result]:
        shortage = self._find_shortage(namespace)
        await self._make_directory()
        max_size = self._limits.max_database
        if self._quotas != StorageQuotas():
            real_sizes = {name: change.size for name, change in self._changes.items()}
            left = await self._database.read(
                partial(allowed_size, namespace, self._quotas, real_sizes)
            )
            max_size = max_size if left is None else min(max_size, left)
        request = await self._request(
            "exec", namespace, statements, max_size, size, may_grow=shortage is None
        )
        job = Job(namespace, True, request, self._limits.timeout)
        try:
            reply = await self._run(job, max_size)
        except InsufficientStorage as error:
            raise shortage or error from None
        results = results_of(reply)
        changed, tables = reply.head["changed_tables"], reply.head.get("tables")
        is_counted = False
        if tables is not None:
            with suppress(StorageFailed):  # what the caller asked for is stored, so it is told so
                await self._replace_tables(namespace, reply, changed)
                is_counted = not reply.head["more"]
        if changed and not is_counted:
            self._note_change(namespace, reply.head["size"], changed)
        return results

    def _find_shortage(self, namespace: str) -> InsufficientStorage | None:
        """Returns why a database must not grow; raises it where that would be a new one."""
        try:
            self._check_room()
        except InsufficientStorage as shortage:
            if not self._path(namespace).exists():
                raise
            return shortage
        return None

    async def _make_directory(self) -> None:
        if not self._directory.exists():
            await asyncio.to_thread(_make_directory, self._directory)

    async def _request(
        self,
        mode: str,
        namespace: str,
        statements: Sequence[D1Statement],
        max_size: int,
        size: int,
        *,
        may_grow: bool = True,
    ) -> bytes:
        for statement in statements:
            if len(statement.sql) > MAX_SQL or len(statement.sql.encode()) > MAX_SQL:
                raise TooLarge("The SQL is longer than 1 MiB.")
        value = {
            "mode": mode,
            "path": str(self._path(namespace)),
            "entries": [(statement.sql, statement.params) for statement in statements],
            "timeout": self._limits.timeout,
            "max_rows": self._limits.max_rows,
            "max_result": self._limits.max_result,
            "max_size": max_size,
            "may_grow": may_grow,
            "keep": self._find_least_free() if mode == "exec" else 0,
        }
        return await dumps_async(value, size) if size > LARGE_BYTES else _encode(value)

    async def _run(self, job: Job, max_size: int) -> Reply:
        """Returns the reply to a request that was done. Raises the errors of all others."""
        try:
            reply = await self.workers.run(job)
        except DeadlinePassed:
            self._note_end(job)
            raise timeout_error(self._limits, may_have_changed=job.is_write) from None
        except WorkerEnded:
            self._note_end(job)
            raise StorageFailed(
                "The worker that ran the SQL ended before it answered.",
                hint="A change may have been stored: look before you repeat it.",
            ) from None
        if reply.head.get("outcome") != Outcome.DONE:
            if reply.head.get("is_ending"):
                self._note_end(job)
            elif job.is_write and reply.head.get("size"):  # the file of a new database stays
                self._note_change(job.namespace, reply.head["size"], ())
            raise error_of(reply.head, self._limits, max_size)
        return reply

    def _path(self, namespace: str) -> Path:
        return self._directory / f"{namespace}{SUFFIX}"

    # ------------------------------------------------------------ the index of tables

    def _note_change(self, namespace: str, size: int, tables: Iterable[str]) -> None:
        """Looks at the tables of a database soon, once for all changes until then."""
        if namespace not in self._changes:
            self._changes[namespace] = _Change()
            self._tasks.spawn(self._refresh_soon(namespace))
        change = self._changes[namespace]
        change.size, change.is_new = size, True
        change.tables.update(tables)

    def _note_end(self, job: Job) -> None:
        """Notes that a worker ended while it ran a request: of a change, it leaves the log behind.

        The log counts until the database is looked at, which empties it.
        """
        if job.is_write:
            self._note_change(job.namespace, size_with_log(self._path(job.namespace)), ())

    async def _refresh_soon(self, namespace: str) -> None:
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._closing.wait()
        except TimeoutError:
            pass
        has_more = None
        try:
            has_more = await self._refresh(namespace)
        finally:
            change = self._changes.pop(namespace)
            if (has_more or change.is_new) and not self._closing.is_set():
                self._note_change(namespace, change.size, change.tables)
        if has_more is None:  # its size counts all the same: quotas go by it
            await self._database.write(partial(count_size, namespace, change.size))

    async def _refresh(self, namespace: str) -> bool | None:
        """Looks at the tables of a database; returns whether it should be made smaller still.

        It returns None when it learns nothing about them.
        """
        change = self._changes[namespace]
        tables, change.tables, change.is_new = change.tables, set(), False
        request = _encode(
            {"mode": "tables", "path": str(self._path(namespace)), "timeout": REFRESH_TIMEOUT}
        )
        try:
            reply = await self.workers.run(Job(namespace, True, request, REFRESH_TIMEOUT))
        except EraError:  # no turn came: what a log takes must not stay, so it is looked at again
            is_closing = self._closing.is_set()
            return True if has_log(self._path(namespace)) and not is_closing else None
        except (DeadlinePassed, WorkerEnded):
            return None
        if reply.head.get("outcome") != Outcome.DONE or reply.head["tables"] is None:
            return None
        await self._replace_tables(namespace, reply, tables)
        return bool(reply.head["more"])

    async def _replace_tables(self, namespace: str, reply: Reply, changed: Iterable[str]) -> None:
        tables, size = reply.head["tables"], reply.head["size"]
        await self._database.write(partial(replace_tables, namespace, tables, set(changed), size))


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
