"""Throw-away sessions: one run each, and nothing is left of them when it has ended."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping

from era_kernels.errors import EraError, SessionNotFound
from era_kernels.models import Reason, Session, Submission, now
from era_kernels.services.errands import Errands
from era_kernels.services.executions import Running
from era_kernels.services.live import LiveSession
from era_kernels.services.rules import check_room, check_writable
from era_kernels.services.tools import Tools

log = logging.getLogger(__name__)


class Throwaways:
    """Begins them and sees to their end. `check_open` raises when there may be no more."""

    def __init__(self, tools: Tools, errands: Errands, check_open: Callable[[], None]) -> None:
        self._tools = tools
        self._errands = errands
        self._check_open = check_open
        self.live: set[LiveSession] = set()

    async def run(self, language: str, submission: Submission) -> Running:
        """The run in a session of its own. Its `abandon` ends it; so does leaving before.

        Raises what `LiveSession.submit` does, and InvalidPath, Conflict or QuotaExceeded for its
        files; nothing is left then.
        """
        beginning = self._errands.start(self._begin(language, submission))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self._errands.start(_abandoned(beginning))
            raise

    async def _begin(self, language: str, submission: Submission) -> Running:
        session = Session(
            id=f"sess-{secrets.token_hex(16)}",
            language=language,
            directory=await self._tools.workspaces.create(),
            created_at=now(),
            persistent=False,
        )
        live = LiveSession(session, self._tools, stored=False)
        self.live.add(live)
        try:
            self._check_open()
            await self._write(session, submission.files)
            running = await live.submit(submission)
        except BaseException:
            await self._end(live)
            raise
        ending = self._errands.start(self._end_after(live, running))

        async def abandon() -> None:
            await self._errands.run(live.end(Reason.CLIENT_GONE, _gone(live)))
            await asyncio.wait([ending])

        running.abandon = abandon
        return running

    async def _write(self, session: Session, files: Mapping[str, str]) -> None:
        room = self._tools.rules.max_workspace
        for path, text in files.items():
            data = text.encode()
            check_writable(path)
            check_room(len(data), room)
            room -= len(data)
            await self._tools.files.write(session.directory, path, data)

    async def _end_after(self, live: LiveSession, running: Running) -> None:
        await running.finished.wait()
        await self._end(live)

    async def _end(self, live: LiveSession) -> None:
        try:
            await live.end(Reason.DELETED, _gone(live))
            await self._tools.workspaces.remove(live.session.directory)
        except EraError as problem:
            extra = {"directory": live.session.directory, "why": problem.message}
            log.warning("a throw-away session was not removed", extra=extra)
        finally:
            self.live.discard(live)


async def _abandoned(beginning: asyncio.Task[Running]) -> None:
    await asyncio.wait([beginning])
    if not beginning.cancelled() and beginning.exception() is None:
        await beginning.result().abandon()


def _gone(live: LiveSession) -> SessionNotFound:
    return SessionNotFound("The session has ended with its run.", id=live.session.id)
