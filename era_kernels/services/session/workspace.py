"""Traces: what code finds in its session's workspace, and what it leaves there."""

from __future__ import annotations

from era_kernels.errors import EraError, SessionNotFound, TooLarge
from era_kernels.models import JsonObject, now
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace_tracker import WorkspaceTracker
from era_kernels.services.validation import merge_data


class SessionWorkspace:
    """Around everything that runs in a session's machine: `before_run` before, `after_run` after.

    Several may be at work at once. A change of the files is counted once, by the first that is
    settled after it; what code writes to `.session_data.json` is adopted then, or when another
    begins, so that none overwrites what another has written.
    """

    def __init__(
        self, state: SessionState, tracker: WorkspaceTracker, session_machine: SessionMachine
    ) -> None:
        self._state = state
        self._tracker = tracker
        self._session_machine = session_machine
        self._active_count = 0

    async def update_data(self, data: JsonObject) -> None:
        """Merge into the session's data. Raises TooLarge, StorageFailed, SessionNotFound."""
        async with self._tracker.lock:
            await self._adopt_changed_data()
            await self._state.update_data(merge_data(self._state.session.data, data))

    async def before_run(self, *, exclusive: bool) -> None:
        """The files are known and show the session's data, before something runs.

        Who is not `exclusive` begins beside others, that may just be writing the mirror of the data: it
        is left to them. Raises StorageFailed, SessionNotFound; `after_run` is called all the same.
        """
        async with self._tracker.lock:
            self._active_count += 1
            if self._active_count > 1:
                await self._adopt_changed_data()
            if exclusive or self._active_count == 1:
                await self._tracker.before_run(self._state.session.data)

    async def after_run(self, execution: LiveExecution) -> int:
        """What it did to the workspace and to `.session_data.json`; files modified."""
        try:
            async with self._tracker.lock:
                self._active_count -= 1
                if self._state.is_deleted:
                    return 0
                after = await self._tracker.after_run()
                await self._adopt_data(after.data)
            self._state.update_soon(
                last_run_at=now(),
                file_count=after.snapshot.count,
                total_size=after.snapshot.total_size,
            )
        except SessionNotFound:  # it is just being deleted
            return 0
        except EraError as problem:
            execution.error = execution.error or problem
            return 0
        return after.files_modified

    async def cleanup(self, execution: LiveExecution) -> None:
        """After all that: the files of a session that is not persistent go with its machine."""
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
        """What the code wrote to `.session_data.json` becomes the session's data, if it fits."""
        if data is None:
            return
        try:
            await self._state.update_data(data)
        except TooLarge:
            return
