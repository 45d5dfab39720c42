"""Prepares a session's workspace before code runs, and records what the code changed."""

from __future__ import annotations

from era_kernels.errors import EraError, SessionNotFound, TooLarge
from era_kernels.models import NO_FILES_CHANGED, FilesChanged, JsonObject, now
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace_tracker import WorkspaceTracker
from era_kernels.services.validation import check_json_size, merge_data


class SessionWorkspace:
    """Does the work on the workspace around each execution: `before_run`, then `after_run`.

    Several executions may be at work at once. A change of the files is counted once, by the first
    `after_run` that follows it. Data that code writes to `.session_data.json` become the session's
    data then, or when another execution starts, so that none overwrites what another has written.
    """

    def __init__(
        self, state: SessionState, tracker: WorkspaceTracker, session_machine: SessionMachine
    ) -> None:
        self._state = state
        self._tracker = tracker
        self._session_machine = session_machine
        self._active_count = 0

    async def update_data(self, data: JsonObject) -> None:
        """Merges `data` into the session's. Raises TooLarge, StorageFailed, SessionNotFound."""
        # The whole cannot be smaller, and a bomb is not merged.
        await check_json_size(data, "data")
        async with self._tracker.lock:
            await self._adopt_changed_data()
            await self._state.update_data(merge_data(self._state.session.data, data))

    async def before_run(self, *, exclusive: bool) -> None:
        """Records the state of the files and writes the session's data to `.session_data.json`.

        exclusive=False: other code is running and may be writing `.session_data.json`, so leave
        that file alone. Raises StorageFailed, SessionNotFound; `after_run` must be called even
        then.
        """
        async with self._tracker.lock:
            self._active_count += 1
            if self._active_count > 1:
                await self._adopt_changed_data()
            if exclusive or self._active_count == 1:
                await self._tracker.before_run(self._state.session.data)

    async def after_run(self, execution: LiveExecution) -> FilesChanged:
        """Records what an execution changed; returns the files.

        Data that it wrote to `.session_data.json` become the session's. A failure is stored in
        `execution.error`.
        """
        try:
            async with self._tracker.lock:
                self._active_count -= 1
                if self._state.is_deleted:
                    return NO_FILES_CHANGED
                after = await self._tracker.after_run()
                await self._adopt_data(after.data)
            self._state.update_soon(
                last_run_at=now(),
                file_count=after.snapshot.count,
                total_size=after.snapshot.total_size,
            )
        except SessionNotFound:  # the session is just being deleted
            return NO_FILES_CHANGED
        except EraError as problem:
            execution.error = execution.error or problem
            return NO_FILES_CHANGED
        return after.files_changed

    async def cleanup(self, execution: LiveExecution) -> None:
        """Removes what an ended machine left behind, if the session is not persistent.

        Its files are removed then, too. A failure is stored in `execution.error`.
        """
        if self._state.session.persistent or self._state.is_deleted:
            return
        try:
            await self._session_machine.reap()
        except EraError as problem:
            execution.error = execution.error or problem

    async def _adopt_changed_data(self) -> None:
        if self._active_count:
            await self._adopt_data(await self._tracker.read_changed_data())

    async def _adopt_data(self, data: JsonObject | None) -> None:
        """Makes data from `.session_data.json` the session's, unless they are None or too large."""
        if data is None:
            return
        try:
            await self._state.update_data(data)
        except TooLarge:
            return
