"""Deletes the rows of sessions, and begins their ends before anybody else can have their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from era_kernels.errors import InsufficientStorage, SessionNotFound
from era_kernels.models import EndReason, Session
from era_kernels.services.context import ServiceContext
from era_kernels.services.session.session import LiveSession
from era_kernels.services.session_teardown import SessionTeardown


class SessionDeleter:
    """Deletes sessions, one or all."""

    def __init__(
        self,
        context: ServiceContext,
        endings: SessionTeardown,
        find_live: Callable[[Session], LiveSession | None],
        pop_live: Callable[[Session], LiveSession | None],
        on_deleted: Callable[[Session], None],
    ) -> None:
        """`find_live` returns the live session of a row, if there is one; `pop_live` takes it out.

        `on_deleted` is called when a row is deleted.
        """
        self._context = context
        self.endings = endings
        self._find_live = find_live
        self._pop_live = pop_live
        self._on_deleted = on_deleted

    async def delete(self, session_id: str) -> None:
        """Deletes a session; nothing is left of it when this returns.

        Raises SessionNotFound, and EndUnfinished when processes do not end.
        """
        try:
            outcomes = await self.begin(session_id)
        except SessionNotFound:
            if not self.endings.is_unfinished(session_id):
                raise
            await self.endings.wait(session_id)
        else:
            await self.endings.finish(outcomes)

    async def begin(
        self,
        session_id: str,
        directory: str | None = None,
        semaphore: asyncio.Semaphore | None = None,
    ) -> list[asyncio.Future[None]]:
        """Deletes a row and begins to end the session, as `SessionTeardown.begin` does.

        Raises SessionNotFound, also when the session is not the one in that directory.
        """
        async with self.endings.id_locks.hold(session_id):
            deleted = await self._delete_row(session_id, directory)
            return self._begin_ends([deleted], semaphore)

    async def delete_all(self) -> list[str]:
        """Deletes every session; returns their ids when nothing is left of them."""
        async with self.endings.id_locks.hold_all():
            try:
                sessions = await self._context.store.delete_all()
            except InsufficientStorage:  # as in `_delete_row`
                for session in (await self._context.store.list_sessions())[0]:
                    await self._remove_files(session)
                sessions = await self._context.store.delete_all()
            outcomes = self._begin_ends(sessions)
        await self.endings.finish(outcomes)
        return [session.id for session in sessions]

    async def _delete_row(self, session_id: str, directory: str | None) -> Session:
        """Deletes a row; on a full disk the files go first, which makes room for that."""
        try:
            return await self._context.store.delete(session_id, directory)
        except InsufficientStorage:
            await self._remove_files(await self._context.store.get(session_id))
            return await self._context.store.delete(session_id, directory)

    async def _remove_files(self, session: Session) -> None:
        """Ends a session whose row is still there, and empties its directory."""
        live = self._find_live(session)
        if live is not None:
            await live.end(EndReason.DELETED, SessionNotFound.for_id(session.id))
            self._pop_live(session)
        self._context.logs.close(session.directory)
        await self._context.workspaces.remove(session.directory, is_kept=True)

    def _begin_ends(
        self, deleted: list[Session], semaphore: asyncio.Semaphore | None = None
    ) -> list[asyncio.Future[None]]:
        for session in deleted:
            self._on_deleted(session)
        return self.endings.begin([(one, self._pop_live(one)) for one in deleted], semaphore)
