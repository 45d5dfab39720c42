"""Stores executions: an append-only log of events for each, and an index of all of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import sleep

from era_kernels.concurrency.cooperative import YIELD_SECONDS, Stepwise, run_in_slices
from era_kernels.errors import ExecutionNotFound, StorageFailed
from era_kernels.models import Done, Event, Execution, IdempotencyKey, LoggedEvent, now
from era_kernels.storage import executions_table, log_recovery
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room, write_with_room
from era_kernels.storage.execution_rows import ExecutionRows
from era_kernels.storage.log_format import (
    LineInfo,
    LogHeader,
    encode,
    encode_header,
    is_long,
    iterencode,
    split_long_texts,
    text_length,
)
from era_kernels.storage.log_index import LogIndex, index_path
from era_kernels.storage.log_reader import LogReader, LogThreads
from era_kernels.storage.threads import SerialExecutor, StorageThreads
from era_kernels.storage.writing import write_all_at

log = logging.getLogger(__name__)

EVENTS_PER_YIELD = 32  # events that are encoded between two yields
WRITE_BYTES = 1 << 16  # bytes that are written at once
MUCH_TEXT = 1 << 16  # characters in one call, above which a thread of its own writes them
VERY_MUCH_TEXT = 1 << 22  # the same, which takes so long that others with much text do not wait
SMALL_LOG_BYTES = 256 * 1024  # a log may grow to this size also when the disk is nearly full

__all__ = ["ExecutionLog", "ExecutionStore"]


class ExecutionLog(LogReader):
    """The log of a live execution, which has one writer and any number of readers."""

    def __init__(
        self,
        path: Path,
        file: int,
        index: LogIndex,
        threads: LogThreads,
        check_room: Callable[[], None] = always_room,
    ) -> None:
        """`check_room` raises InsufficientStorage when no long output is to be stored."""
        super().__init__(path, index, threads)
        self._file = file
        self._executor = SerialExecutor(threads.appenders)
        self._check_room = check_room

    async def append(self, events: Sequence[Event]) -> list[LoggedEvent]:
        """Writes events, in the order of the calls, and returns them as they are in the log.

        Writes all of them or none. Raises StorageFailed, InsufficientStorage; the log stays whole
        then, and the next append may succeed.
        """
        return await self._executor.submit_to(self._threads_for(events), self._append, events)

    async def aclose(self) -> None:
        """Ends appending; readers may go on. A second call is fine."""
        if self._executor.is_busy or self._index.is_worth_saving:
            await self._executor.run(self._close)
        else:
            # Closing a small file waits for nothing, and a hop to a thread costs more.
            self._close()

    def _threads_for(self, events: Sequence[Event]) -> StorageThreads:
        """Returns the threads that write the events.

        Encoding text keeps the interpreter's lock from all other threads, so one at a time writes
        much of it, and whoever prints a line finds a thread that is free.
        """
        length = text_length(events)
        if length > VERY_MUCH_TEXT or any(map(is_long, events)):
            return self._threads.slow
        return self._threads.much_text if length > MUCH_TEXT else self._threads.appenders

    # ------------------------------------------------------------ in a thread, one at a time

    def _append(self, events: Sequence[Event]) -> list[LoggedEvent]:
        if self._file < 0:
            raise StorageFailed("The log of this execution is closed.")
        time, first = now(), self._index.last_seq + 1
        recorded = [
            LoggedEvent(first + n, time, event) for n, event in enumerate(split_long_texts(events))
        ]
        try:
            # The end of an execution is noted in any case.
            is_last = bool(events) and isinstance(events[-1], Done)
            lines = self._write(recorded, always_room if is_last else self._check_room)
        except BaseException:
            os.ftruncate(self._file, self._index.size)
            raise
        for line in lines:
            self._index.add(line)
        if self._index.is_long_unsaved:
            self._index.save(self._path)
        return recorded

    def _write(
        self, recorded: Iterable[LoggedEvent], check_room: Callable[[], None]
    ) -> list[LineInfo]:
        """Writes lines in groups, so that a long event is never encoded as a whole."""
        lines: list[LineInfo] = []
        group: list[bytes] = []
        offset, size = self._index.size, 0
        for number, entry in enumerate(recorded, 1):
            if number % EVENTS_PER_YIELD == 0:
                sleep(YIELD_SECONDS / 4)  # many events: others need the lock, too
            if is_long(entry.event):
                offset = write_all_at(self._file, b"".join(group), offset)
                group, size = [], 0
                steps = _write_stepwise(self._file, iterencode(entry), offset, check_room)
                end = run_in_slices(steps)
                lines.append(LineInfo(end - offset))
                offset = end
                continue
            if size >= WRITE_BYTES:
                offset = write_all_at(self._file, b"".join(group), offset)
                group, size = [], 0
                sleep(YIELD_SECONDS / 2)  # much text: as above
            data, line = encode(entry)
            lines.append(line)
            group.append(data)
            size += len(data)
            if offset + size > SMALL_LOG_BYTES:
                check_room()
        write_all_at(self._file, b"".join(group), offset)
        return lines

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
            if self._index.is_worth_saving:
                self._index.save(self._path)


class ExecutionStore:
    """Opens, lists and drops executions; `sessions` holds the sessions' directories.

    Rows of the index are written without waiting, for only the log must not be lost; reads wait
    until those rows are written.
    """

    def __init__(
        self,
        database: Database,
        sessions: Path,
        make_room: Callable[[], None] | None = None,
        check_room: Callable[[], None] = always_room,
    ) -> None:
        """`make_room` is called on a full disk, before a new log is tried once more.

        `check_room` raises InsufficientStorage when no long output or code is to be stored.
        """
        self._database = database
        self._make_room = make_room
        self._check_room = check_room
        self._sessions = sessions
        self._threads = LogThreads()
        self._rows = ExecutionRows(database)

    async def create(
        self,
        execution: Execution,
        directory: str,
        language: str,
        is_indexed: bool = True,
        idempotency: IdempotencyKey | None = None,
    ) -> ExecutionLog:
        """Creates the log of an execution.

        `is_indexed`: the execution is listed, as long as its session exists. `idempotency`: the
        key is durable when this returns. Raises StorageFailed, InsufficientStorage.
        """
        if len(execution.code) > SMALL_LOG_BYTES:
            self._check_room()
        path = self._path(directory, execution.id)
        header = LogHeader(execution.code, language, execution.created_at)
        file, header_size = await write_with_room(
            lambda: self._threads.appenders.run(_create, path, header), self._make_room
        )
        if idempotency is not None:
            await self._insert_with_key(execution, directory, idempotency, path, file)
        elif is_indexed:
            self._rows.write_soon(execution, directory=directory)
        return ExecutionLog(path, file, LogIndex(header_size), self._threads, self._check_room)

    async def _insert_with_key(
        self,
        execution: Execution,
        directory: str,
        idempotency: IdempotencyKey,
        path: Path,
        file: int,
    ) -> None:
        """Inserts the row after the log is made.

        A server that is killed in between leaves the key free, and no code has run.
        """
        try:
            await self._database.write(
                partial(executions_table.insert_with_key, execution, directory, idempotency)
            )
        except BaseException:
            os.close(file)
            await self._threads.readers.run(_unlink_logs, [path])
            raise

    async def find_key(self, directory: str, key: str) -> tuple[str, bytes] | None:
        """Finds the id of the execution that has an idempotency key, and the digest of its body."""
        await self._database.flush()
        return await self._database.read(partial(executions_table.find_key, directory, key))

    def release_key_soon(self, execution_id: str) -> None:
        """Removes an execution's idempotency key, so that the key is free; does not wait."""
        self._database.write_soon(partial(executions_table.release_key, execution_id))

    def update_soon(
        self,
        execution: Execution,
        log: ExecutionLog | None = None,
        on_committed: Callable[[None], object] | None = None,
    ) -> None:
        """Stores an execution's changes and the size of its log, if indexed; does not wait.

        `on_committed` is called in another thread once the row is durable; it must not raise.
        """
        self._rows.write_soon(execution, None if log is None else log.size, on_committed)

    async def get(self, session_id: str, execution_id: str) -> Execution:
        """Returns an execution. Raises ExecutionNotFound."""
        await self._database.flush()
        found = await self._database.read(partial(executions_table.find, session_id, execution_id))
        if found is None:
            raise ExecutionNotFound(f"There is no execution {execution_id}.", id=execution_id)
        return found

    async def list_executions(
        self,
        session_id: str,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = False,
        selected: executions_table.StatusFilter | None = None,
    ) -> tuple[list[Execution], int]:
        """Lists executions of a session, all or those selected, and counts all of these.

        Only the first executions_table.LISTED_CODE_BYTES of their code are read.
        """
        await self._database.flush()
        page = executions_table.Page(limit, offset, newest_first, selected)
        return await self._database.read_long(partial(executions_table.list_page, session_id, page))

    async def open_log(self, directory: str, execution_id: str) -> LogReader:
        """Opens the log of a finished execution. Raises ExecutionNotFound, StorageFailed."""
        path = self._path(directory, execution_id)
        return LogReader(path, await self._threads.readers.run(_load_index, path), self._threads)

    async def trim(self, session_id: str, directory: str, keep: int, keep_bytes: int) -> None:
        """Drops the oldest executions beyond `keep`, or beyond `keep_bytes` together.

        The newest execution stays, and so does each that has not finished. The rows and files are
        deleted after this returns.
        """
        work = partial(executions_table.trim, session_id, directory, keep, keep_bytes)
        self._rows.trim_soon(directory, work, partial(self._unlink_soon, directory))

    async def close_unfinished(self) -> None:
        """Ends, after a start, the executions that a former server did not finish.

        The call may be repeated, and killed at any point.
        """
        await self._database.flush()
        sessions = await self._database.read(executions_table.session_ids)
        for directory, session_id in sessions.items():
            await self._index_orphaned_logs(directory, session_id)
        for execution_id in await self._database.read(executions_table.unfinished_ids):
            unfinished = await self._database.read(
                partial(executions_table.get_unfinished, execution_id)
            )
            path = self._path(unfinished.directory, execution_id)
            execution, size = await self._threads.readers.run(
                log_recovery.recover, path, unfinished
            )
            await self._database.write(partial(executions_table.update, execution, size))

    async def aclose(self) -> None:
        """Ends the threads, after the last log is closed; a second call is fine."""
        await asyncio.to_thread(self._threads.close)

    async def _index_orphaned_logs(self, directory: str, session_id: str) -> None:
        """Inserts rows that a crash lost, for their logs, as executions that did not finish."""
        logs = await self._threads.readers.run(
            log_recovery.logged_execution_ids, self._path(directory, "").parent
        )
        if not logs:
            return
        known = await self._database.read(partial(executions_table.execution_ids, session_id))
        for execution_id in sorted(logs - known):
            path = self._path(directory, execution_id)
            execution = await self._threads.readers.run(
                log_recovery.execution_from_header, path, session_id
            )
            if execution is None:
                _unlink_logs([path])
            else:
                await self._database.write(partial(executions_table.insert, execution, directory))

    def _unlink_soon(self, directory: str, execution_ids: Sequence[str]) -> None:
        if execution_ids:
            paths = [self._path(directory, one) for one in execution_ids]
            self._threads.readers.submit_detached(_unlink_logs, paths)

    def _path(self, directory: str, execution_id: str) -> Path:
        return self._sessions / directory / "executions" / f"{execution_id}.jsonl"


def _create(path: Path, header: LogHeader) -> tuple[int, int]:
    """Creates a log with its header; returns its descriptor and its size.

    Raises OSError; leaves no file then.
    """
    data = encode_header(header)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700)
        file = os.open(path, flags, 0o600)
    try:
        size = write_all_at(file, data, 0)
    except OSError:
        os.close(file)
        path.unlink()
        raise
    return file, size


def _write_stepwise(
    file: int, pieces: Iterable[bytes], offset: int, check_room: Callable[[], None]
) -> Stepwise[int]:
    """Writes pieces in steps, and returns the offset after them.

    Raises OSError, and what `check_room` raises.
    """
    for piece in pieces:
        if piece:
            check_room()
            offset = write_all_at(file, piece, offset)
        yield
    return offset


def _load_index(path: Path) -> LogIndex:
    try:
        return LogIndex.load_or_build(path)
    except FileNotFoundError as error:
        raise ExecutionNotFound("The log of this execution is gone.", id=path.stem) from error


def _unlink_logs(paths: Iterable[Path]) -> None:
    """Removes logs and their indexes; files that remain are removed with their session."""
    for path in paths:
        for file in (path, index_path(path)):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                log.warning("a log remains", extra={"log": path.name, "why": str(error)})
