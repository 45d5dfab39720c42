"""Tracks the files and the data file of a session's workspace from run to run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from era_kernels.models import JsonObject
from era_kernels.storage.workspaces import (
    FileChange,
    SessionDataFile,
    Snapshot,
    WorkspaceChanges,
    Workspaces,
)


class WorkspaceTracker:
    """Remembers the state of the files and of `.session_data.json` after the last run.

    One call at a time may be under way. All methods raise StorageFailed, InsufficientStorage.
    """

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self._workspaces = workspaces
        self._directory = directory
        self._data_file: SessionDataFile | None = None
        self._snapshot: Snapshot | None = None

    async def before_run(self, data: JsonObject) -> None:
        """Records the state of the files, unless it is known; writes `data` to the data file."""
        await self._ensure_snapshot()
        await self.write_data_file(data)

    async def read_changed_data(self) -> JsonObject | None:
        """Reads data that running code wrote to .session_data.json, without overwriting the file.

        Returns the new data, or None.
        """
        await self._ensure_snapshot()
        after = await self._workspaces.after_run(self._directory, self._snapshot, self._data_file)
        self._data_file = after.data_file or self._data_file
        return after.data

    async def _ensure_snapshot(self) -> None:
        if self._snapshot is None:
            self._snapshot = await self._workspaces.scan(self._directory)

    async def write_data_file(self, data: JsonObject) -> None:
        """Writes `data` to the data file, also while code runs."""
        self._data_file = await self._workspaces.before_run(self._directory, data, self._data_file)

    async def after_run(self) -> WorkspaceChanges:
        """Returns what changed since the last `after_run`, and records the new state.

        A broken data file does not replace the one that is remembered for comparison: other code
        may still be writing it.
        """
        after = await self._workspaces.after_run(self._directory, self._snapshot, self._data_file)
        self._snapshot, self._data_file = after.snapshot, after.data_file or self._data_file
        return after

    async def change_file(self, operation: Callable[[], Awaitable[FileChange]]) -> FileChange:
        """Lets `operation` put or delete a file, and does not count that as a run's change.

        Raises what the operation raises.
        """
        change = await operation()
        if self._snapshot is not None:
            self._snapshot = self._snapshot.with_change(change)
        return change

    async def clear_files(self) -> None:
        """Removes all files."""
        self._snapshot = self._data_file = None
        await self._workspaces.clear_files(self._directory)
