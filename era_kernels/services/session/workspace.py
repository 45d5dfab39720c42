"""Prepares a session's workspace before code runs, and records what the code changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from era_kernels.errors import EraError, SessionNotFound, StorageFailed, TooLarge
from era_kernels.models import NO_FILES_CHANGED, FilesChanged, JsonObject, now
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session.session_values import SessionValues
from era_kernels.services.validation import check_json_size, merge_data
from era_kernels.storage.workspaces import (
    FileChange,
    FileListing,
    WorkspaceChanges,
    WorkspaceDataFile,
    Workspaces,
)

log = logging.getLogger(__name__)


class WorkspaceTracker:
    """Remembers the state of the files and of `.session_data.json` after the last run.

    One call at a time may be under way. All methods raise StorageFailed, InsufficientStorage.
    """

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self._workspaces = workspaces
        self._directory = directory
        self._data_file: WorkspaceDataFile | None = None
        self._listing: FileListing | None = None

    async def prepare(self, data: JsonObject) -> None:
        """Records the state of the files, unless it is known; writes `data` to the data file."""
        if self._listing is None:
            self._listing = await self._workspaces.scan(self._directory)
        await self.write_data_file(data)

    async def read_changed_data(self) -> JsonObject | None:
        """Reads data that running code wrote to .session_data.json, without overwriting the file.

        Returns the new data, or None.
        """
        if self._listing is None:
            self._listing = await self._workspaces.scan(self._directory)
        after = await self._workspaces.read_changes(self._directory, self._listing, self._data_file)
        self._data_file = after.data_file or self._data_file
        return after.data

    async def write_data_file(self, data: JsonObject) -> None:
        """Writes `data` to the data file, also while code runs."""
        self._data_file = await self._workspaces.write_data_file(
            self._directory, data, self._data_file
        )

    async def take_changes(self) -> WorkspaceChanges:
        """Returns what changed since the last `take_changes`, and records the new state.

        A broken data file does not replace the one that is remembered for comparison: other code
        may still be writing it.
        """
        after = await self._workspaces.read_changes(self._directory, self._listing, self._data_file)
        self._listing, self._data_file = after.listing, after.data_file or self._data_file
        return after

    async def change_file(self, operation: Callable[[], Awaitable[FileChange]]) -> FileChange:
        """Lets `operation` put or delete a file, and does not count that as a run's change.

        Raises what the operation raises.
        """
        change = await operation()
        if self._listing is not None:
            self._listing = self._listing.with_change(change)
        return change

    async def clear_files(self) -> None:
        """Removes all files."""
        self._listing = self._data_file = None
        await self._workspaces.clear_files(self._directory)


class SessionWorkspace:
    """Does the work on the workspace around each execution: `before_run`, then `after_run`.

    Several executions may be at work at once. A change of the files is counted once, by the first
    `after_run` that follows it. Data that code writes to `.session_data.json` become the session's
    data then, or when another execution starts, so that none overwrites what another has written.
    """

    def __init__(self, values: SessionValues, workspaces: Workspaces) -> None:
        self._values = values
        self._tracker = WorkspaceTracker(workspaces, values.session.directory)
        self._lock = asyncio.Lock()  # the session's data and the data file change together
        self._active_count = 0

    async def update_data(self, **changes: object) -> None:
        """Changes stored fields, `data` among them, and writes the data file.

        They are durable when this returns. Raises SessionNotFound, StorageFailed.
        """
        async with self._lock:
            await self._values.update(**changes)
            try:
                await self._tracker.write_data_file(self._values.session.data)
            except StorageFailed as problem:  # the file is written again before the next run
                extra = {"session": self._values.session.id, "why": problem.message}
                log.warning("the data file was not written", extra=extra)

    async def merge_data(self, data: JsonObject) -> None:
        """Merges `data` into the session's. Raises TooLarge, StorageFailed, SessionNotFound."""
        # The whole cannot be smaller, and a bomb is not merged.
        await check_json_size(data, "data")
        async with self._lock:
            await self._adopt_changed_data()
            await self._replace_data(merge_data(self._values.session.data, data))

    async def change_file(self, operation: Callable[[], Awaitable[FileChange]]) -> None:
        """Lets `operation` put or delete a file, never while `after_run` looks at the files.

        None starts once the session has ended: the directory must not grow while it is removed.
        """
        async with self._lock:
            self._values.check_open()
            change = await self._tracker.change_file(operation)
        session = self._values.session
        self._values.update_soon(
            file_count=max(0, session.file_count + change.count_delta),
            total_size=max(0, session.total_size + change.size_delta),
        )

    async def clear_files(self) -> None:
        """Removes all files."""
        async with self._lock:
            await self._tracker.clear_files()
        self._values.update_soon(file_count=0, total_size=0)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Keeps files and data from changing, except by code, while the context is open."""
        async with self._lock:
            yield

    async def before_run(self, *, exclusive: bool) -> None:
        """Records the state of the files, unless it is known, and writes the session's data file.

        exclusive=False: other code is running and may be writing `.session_data.json`, so leave
        that file alone. Raises StorageFailed, SessionNotFound; `after_run` must be called even
        then.
        """
        async with self._lock:
            self._active_count += 1
            if self._active_count > 1:
                await self._adopt_changed_data()
            if exclusive or self._active_count == 1:
                await self._tracker.prepare(self._values.session.data)

    async def after_run(self, execution: LiveExecution) -> FilesChanged:
        """Records what an execution changed; returns the files.

        Data that it wrote to `.session_data.json` become the session's. A failure is that of
        the execution.
        """
        try:
            async with self._lock:
                self._active_count -= 1
                if self._values.is_deleted:
                    return NO_FILES_CHANGED
                after = await self._tracker.take_changes()
                if after.data is not None:
                    await self._adopt_data(after.data)
            self._values.update_soon(
                last_run_at=now(),
                file_count=after.listing.count,
                total_size=after.listing.total_size,
            )
        except SessionNotFound:  # the session is just being deleted
            return NO_FILES_CHANGED
        except EraError as problem:
            execution.fail(problem)
            return NO_FILES_CHANGED
        return after.files_changed

    async def _adopt_changed_data(self) -> None:
        if self._active_count:
            data = await self._tracker.read_changed_data()
            if data is not None:
                await self._adopt_data(data)

    async def _adopt_data(self, data: JsonObject) -> None:
        """Makes data from `.session_data.json` the session's, unless they are too large."""
        with suppress(TooLarge):
            await self._replace_data(data)

    async def _replace_data(self, data: JsonObject) -> None:
        await check_json_size(data, "data")
        await self._values.update(data=data)
