"""Runs code in throw-away sessions: one run each, and nothing is left of them afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, SessionNotFound
from era_kernels.models import EndReason, Session, Submission, now
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session.session import LiveSession
from era_kernels.services.session_teardown import SessionTeardown
from era_kernels.services.validation import (
    check_quota,
    check_writable_path,
    new_session_id,
)

log = logging.getLogger(__name__)


class EphemeralSessions:
    """Starts and ends throw-away sessions. `check_open` raises when no more may start."""

    def __init__(
        self,
        context: ServiceContext,
        background: BackgroundTasks,
        endings: SessionTeardown,
        check_open: Callable[[], None],
    ) -> None:
        self._context = context
        self._endings = endings
        self._background = background
        self._check_open = check_open
        self.live: set[LiveSession] = set()

    async def run(self, language: str, submission: Submission) -> LiveExecution:
        """Starts a run in a session of its own.

        The session ends when the execution is abandoned, or the caller of this method cancelled.
        Raises as `LiveSession.submit` does, and InvalidPath, Conflict or QuotaExceeded for the
        files; nothing is left then.
        """
        start_task = self._background.spawn(self._start(language, submission))
        try:
            return await asyncio.shield(start_task)
        except asyncio.CancelledError:
            self._background.spawn(_abandon_when_started(start_task))
            raise

    async def _start(self, language: str, submission: Submission) -> LiveExecution:
        session = Session(
            id=new_session_id(),
            language=language,
            directory=await self._context.workspaces.create(),
            created_at=now(),
            persistent=False,
        )
        live = LiveSession(session, self._context, is_stored=False)
        self.live.add(live)
        try:
            self._check_open()
            await self._write_files(session, submission.files)
            execution = await live.submit(replace(submission, ends_program=True))
        except BaseException:
            await self._end(live)
            raise
        end_task = self._background.spawn(self._end_after_run(live, execution))

        async def end_session() -> None:
            await self._background.run_shielded(
                live.end(EndReason.CLIENT_DISCONNECTED, _closed_error(live))
            )
            await asyncio.wait([end_task])

        execution.when_abandoned(end_session)
        return execution

    async def _write_files(self, session: Session, files: Mapping[str, str]) -> None:
        available = self._context.service_limits.max_workspace
        for path, text in files.items():
            data = text.encode()
            check_writable_path(path)
            check_quota(len(data), available)
            available -= len(data)
            await self._context.files.write(session.directory, path, data)

    async def _end_after_run(self, live: LiveSession, execution: LiveExecution) -> None:
        await execution.finished.wait()
        await self._end(live)

    async def _end(self, live: LiveSession) -> None:
        try:
            await self._endings.end_live(live, EndReason.DELETED, _closed_error(live))
            await self._context.workspaces.remove(live.session.directory)
        except EraError as problem:
            extra = {"directory": live.session.directory, "why": problem.message}
            log.warning("a throw-away session was not removed", extra=extra)
        finally:
            self.live.discard(live)


async def _abandon_when_started(start_task: asyncio.Task[LiveExecution]) -> None:
    await asyncio.wait([start_task])
    if not start_task.cancelled() and start_task.exception() is None:
        execution = start_task.result()
        execution.add_caller()
        await execution.remove_caller()


def _closed_error(live: LiveSession) -> SessionNotFound:
    return SessionNotFound("The session has ended with its run.", id=live.session.id)
