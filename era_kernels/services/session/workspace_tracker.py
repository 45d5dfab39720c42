"""A session's desk: its workspace before, between and after runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from era_kernels.models import JsonObject
from era_kernels.storage.workspaces import AfterRun, Change, DataFile, Snapshot, Workspaces


class WorkspaceTracker:
    """Remembers what the workspace and the mirror of `data` looked like after the last run.

    Who works at it holds its `lock`, so that the session's data and its mirror change together.
    All steps raise StorageFailed, InsufficientStorage.
    """

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self.lock = asyncio.Lock()
        self._workspaces = workspaces
        self._directory = directory
        self._data_file: DataFile | None = None
        self._snapshot: Snapshot | None = None

    async def before_run(self, data: JsonObject) -> None:
        """Before a run: the mirror of `data` is written, the state of the files is known."""
        await self._ensure_snapshot()
        await self.write_data_file(data)

    async def read_changed_data(self) -> JsonObject | None:
        """Before something runs beside other code, which may just be writing the mirror.

        So that is not written; the data, where the other code has changed them.
        """
        await self._ensure_snapshot()
        after = await self._workspaces.after_run(self._directory, self._snapshot, self._data_file)
        self._data_file = after.data_file or self._data_file
        return after.data

    async def _ensure_snapshot(self) -> None:
        if self._snapshot is None:
            self._snapshot = await self._workspaces.scan(self._directory)

    async def write_data_file(self, data: JsonObject) -> None:
        """Write the mirror of `data`, also while code runs."""
        self._data_file = await self._workspaces.before_run(self._directory, data, self._data_file)

    async def after_run(self) -> AfterRun:
        """After a run: what changed since anything was settled last.

        A mirror that is broken is still the one to compare with: who runs beside may complete it.
        """
        after = await self._workspaces.after_run(self._directory, self._snapshot, self._data_file)
        self._snapshot, self._data_file = after.snapshot, after.data_file or self._data_file
        return after

    async def change_file(self, operation: Callable[[], Awaitable[Change]]) -> Change:
        """A file is put or deleted by a caller: no run did that. Raises what the step does."""
        change = await operation()
        if self._snapshot is not None:
            self._snapshot = self._snapshot.with_change(change)
        return change

    async def clear_files(self) -> None:
        """Drop all files."""
        self._snapshot = self._data_file = None
        await self._workspaces.clear_files(self._directory)
