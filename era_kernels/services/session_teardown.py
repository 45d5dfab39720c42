"""Ends deleted sessions, and gives nothing of them back before nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.concurrency.name_locks import NameLocks
from era_kernels.errors import EndUnfinished, EraError, SessionNotFound
from era_kernels.models import EndReason, Session
from era_kernels.services.context import ServiceContext
from era_kernels.services.session.session import LiveSession

MAX_CONCURRENT_ENDS = 16  # sessions that are ended at once
RETRY_INTERVAL = 1.0  # seconds between two looks at a session whose processes do not end


class SessionTeardown:
    """Ends sessions whose rows are deleted: their kernels, then their files.

    An id is taken from before its row is deleted until then: no new session has it while the old
    one acts. `on_gone` is called when nothing is left of a session.
    """

    def __init__(
        self,
        context: ServiceContext,
        background: BackgroundTasks,
        on_gone: Callable[[Session], None],
    ) -> None:
        self._context = context
        self._background = background
        self._on_gone = on_gone
        self._endings: dict[tuple[str, str], asyncio.Task[None]] = {}  # by id and directory
        self._unfinished: dict[tuple[str, str], EndUnfinished] = {}
        self._is_closing = False
        # Held from before a row is deleted until the end has begun, and while a row is stored.
        self.id_locks = NameLocks()
        self.deletion_count = 0  # calls of `begin`

    @asynccontextmanager
    async def taking(self, session_id: str) -> AsyncIterator[None]:
        """Gives a new session's id to who stores its row while the context is open.

        Nothing is left then of a former session with that id. Raises EndUnfinished.
        """
        async with self.id_locks.hold(session_id):
            await self.wait(session_id)
            yield

    def begin(
        self,
        deleted: Sequence[tuple[Session, LiveSession | None]],
        semaphore: asyncio.Semaphore | None = None,
    ) -> list[asyncio.Future[None]]:
        """Begins to end deleted sessions, whose ids are taken at once; `finish` gets the result.

        The locks of the ids must be held. So many end at once as `semaphore` says.
        """
        self.deletion_count += 1
        semaphore = semaphore or asyncio.Semaphore(MAX_CONCURRENT_ENDS)
        outcomes = [asyncio.get_running_loop().create_future() for _ in deleted]
        for (session, live), outcome in zip(deleted, outcomes, strict=True):
            task = self._background.spawn(self._end(session, live, semaphore, outcome))
            self._endings[session.id, session.directory] = task
        return outcomes

    async def finish(self, outcomes: Sequence[asyncio.Future[None]]) -> None:
        """Returns when nothing is left of sessions whose ends have begun.

        Raises EndUnfinished for a session whose processes do not end: that goes on, and the id
        stays taken. Raises StorageFailed.
        """
        for problem in await asyncio.gather(*outcomes, return_exceptions=True):
            if problem is not None:
                raise problem

    def is_unfinished(self, session_id: str) -> bool:
        """Returns whether callers were told that the session's end is not finished."""
        return any(one == session_id for one, _ in self._unfinished)

    async def wait(self, session_id: str | None) -> None:
        """Waits until nothing is left of a deleted session with that id. Raises EndUnfinished."""
        while tasks := [task for (one, _), task in self._endings.items() if one == session_id]:
            for (one, _), unfinished in self._unfinished.items():
                if one == session_id:
                    raise unfinished
            await asyncio.wait(tasks, timeout=RETRY_INTERVAL)

    async def end_live(self, live: LiveSession, reason: EndReason, closed_error: EraError) -> None:
        """Ends a live session, however long that takes. Raises EndUnfinished after `close`."""
        while True:
            try:
                return await live.end(reason, closed_error)
            except EndUnfinished:
                if self._is_closing:
                    raise
                await asyncio.sleep(RETRY_INTERVAL)

    def close(self) -> None:
        """Gives up what does not end, at the end of the server."""
        self._is_closing = True

    async def _end(
        self,
        session: Session,
        live: LiveSession | None,
        semaphore: asyncio.Semaphore,
        outcome: asyncio.Future[None],
    ) -> None:
        reason, closed_error = EndReason.DELETED, SessionNotFound.for_id(session.id)
        key = session.id, session.directory
        problem: BaseException | None = None
        try:
            if live is not None:
                try:
                    async with semaphore:
                        await live.end(reason, closed_error)
                except EndUnfinished as unfinished:
                    self._unfinished[key] = unfinished
                    outcome.set_exception(unfinished)
                    await self.end_live(live, reason, closed_error)
            async with semaphore:
                self._context.logs.close(session.directory)
                await self._context.workspaces.remove(session.directory)
                self._context.store.deleted.forget_soon([session.directory])
        except BaseException as error:
            problem = error
            raise
        finally:
            del self._endings[key]
            self._unfinished.pop(key, None)
            self._on_gone(session)
            if not outcome.done():
                if problem is None:
                    outcome.set_result(None)
                else:
                    outcome.set_exception(problem)
