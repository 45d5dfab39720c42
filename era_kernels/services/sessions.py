"""All sessions: creates, finds, changes and ends them, within the caps."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import datetime

from era_kernels.errors import Capacity, SessionNotFound, ShuttingDown
from era_kernels.models import (
    ExecSubmission,
    NewSession,
    Reason,
    Session,
    SessionStatus,
    SessionView,
    Submission,
    now,
)
from era_kernels.services.creations import Creations
from era_kernels.services.duplicates import Duplicates, Wish
from era_kernels.services.errands import Errands
from era_kernels.services.execs import has_run
from era_kernels.services.executions import Running
from era_kernels.services.expiry import Expiry, Watch
from era_kernels.services.live import LiveSession
from era_kernels.services.rules import check_changes, check_id
from era_kernels.services.seat import RETRY_AFTER
from era_kernels.services.throwaways import Throwaways
from era_kernels.services.tools import Tools
from era_kernels.storage.workspaces import Snapshot

log = logging.getLogger(__name__)

ENDING_AT_ONCE = 16  # sessions that are ended side by side
REMEMBERED = 64  # sessions in memory from which on those that rest are forgotten


class LiveSessions:
    """What the web room talks to. One live session per id; the rest sleeps in the store."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._live: dict[str, LiveSession] = {}
        self._errands = Errands()
        self._throwaways = Throwaways(tools, self._errands, self._check_open)
        self._creations = Creations(tools, self._errands, self._counted, self._watch)
        self._duplicates = Duplicates(tools, self._errands, self._counted, self._watch)
        self._expiry = Expiry(self._quiet_since, self._expire)
        self._expired: set[str] = set()  # whose rows are just being deleted
        self._count = 0
        self._deletions = 0
        self._forget_at = REMEMBERED
        self._closing = False

    async def open(self) -> None:
        """After a start: what a former server left behind is put in order."""
        stored, self._count = await self._tools.store.list_sessions()
        sessions = list(stored)
        await self._tools.workspaces.reconcile({session.directory for session in sessions})
        for session in sessions:
            if not session.persistent and await has_run(self._tools, session):
                await self._tools.workspaces.clear_files(session.directory)
            self._watch(session)

    # ------------------------------------------------------------ sessions

    async def create(self, new: NewSession) -> SessionView:
        """Raises as `Creations.make` does. Nothing changes then."""
        self._check_open()
        return self._view(await self._creations.make(new))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A place for one more session, given back when it could not be made. Raises Capacity."""
        if self._count >= self._tools.rules.max_sessions:
            raise Capacity(
                f"There are {self._count} sessions, which is as many as this server keeps.",
                hint="Delete a session that is not needed, or raise max_sessions.",
                retry_after=RETRY_AFTER,
            )
        self._count += 1
        try:
            yield
        except BaseException:
            self._count -= 1
            raise

    async def duplicate(self, id: str, wish: Wish) -> SessionView:
        """A new session like this one, but for its variables; see `Duplicates.make`.

        Raises InvalidId besides.
        """
        self._check_open()
        check_id(wish.id)
        check_changes(self._tools.host.isolation, data=wish.data)
        async with self.using(id) as source:
            return self._view(await self._duplicates.make(source, wish))

    async def get(self, id: str) -> SessionView:
        """Raises SessionNotFound."""
        return self._view(await self.session(id))

    async def session(self, id: str) -> Session:
        """The session's present values. Raises SessionNotFound."""
        self._check_there(id)
        live = self._live.get(id)
        return live.session if live else await self._tools.store.get(id)

    async def list_sessions(
        self,
        limit: int | None = None,
        offset: int = 0,
        language: str | None = None,
    ) -> tuple[Iterator[SessionView], int]:
        """Views without `data`, oldest first, and how many there are in all.

        Each is made when it is asked for, with the status of then.
        """
        name = self._tools.host.languages.resolve(language).name if language else None
        sessions, total = await self._tools.store.list_sessions(limit, offset, name)
        return (self._view(self._present(session)) for session in sessions), total

    def _present(self, stored: Session) -> Session:
        """What a live session knows better than its row; without `data`, as lists are."""
        live = self._live.get(stored.id)
        if live is None or live.session.directory != stored.directory:
            return stored
        return dataclasses.replace(live.session, data={})

    async def files(self, id: str) -> Snapshot:
        """The user's files as they are now. Raises SessionNotFound."""
        session = await self.session(id)
        return await self._tools.workspaces.scan(session.directory)

    async def update(self, id: str, **changes: object) -> SessionView:
        """Change `default_timeout`, `ttl`, `allow_internet`, `allow_public`, `metadata`, `data`.

        Raises SessionNotFound, InvalidRequest, TooLarge, NotEnforceable.
        """
        check_changes(self._tools.host.isolation, **changes)
        timeout = changes.get("default_timeout")
        if isinstance(timeout, int | float):
            self._tools.rules.check_timeout(timeout, "default_timeout")
        return self._view(await self._errands.run(self._update(id, changes)))

    async def _update(self, id: str, changes: dict[str, object]) -> Session:
        async with self.using(id) as live:
            await live.update(**changes)
            if "ttl" in changes:
                self._watch(live.session)
            return live.session

    async def delete(self, id: str) -> datetime:
        """The id is free at once; kernel, children and files are gone when this returns.

        Raises SessionNotFound.
        """
        await self._errands.run(self._delete(id))
        return now()

    async def _delete(self, id: str) -> None:
        self._check_there(id)
        session = await self._tools.store.delete(id)
        await self._end_all([session])

    async def delete_all(self) -> list[str]:
        """Delete every session there is; their ids."""
        return await self._errands.run(self._delete_all())

    async def _delete_all(self) -> list[str]:
        sessions = await self._tools.store.delete_all()
        await self._end_all(sessions)
        return [session.id for session in sessions]

    async def _end_all(self, deleted: list[Session]) -> None:
        """What is left to do when rows are gone. The ids are free before anything is waited for."""
        for session in deleted:
            self._expiry.forget(session.id, session.directory)
        self._count -= len(deleted)
        self._deletions += 1
        gate = asyncio.Semaphore(ENDING_AT_ONCE)

        async def end(session: Session, live: LiveSession | None) -> None:
            async with gate:
                if live is not None:
                    await live.end(Reason.DELETED, _not_found(session.id))
                self._tools.logs.end(session.directory)
                await self._tools.workspaces.remove(session.directory)

        ends = [end(session, self._pop(session)) for session in deleted]
        for problem in await asyncio.gather(*ends, return_exceptions=True):
            if problem is not None:
                raise problem

    def _pop(self, session: Session) -> LiveSession | None:
        """The live session of that row, and not one that has its id by now."""
        live = self._live.get(session.id)
        if live is None or live.session.directory != session.directory:
            return None
        return self._live.pop(session.id)

    async def restart(self, id: str, base_url: str) -> int:
        """A fresh kernel; its generation. Raises SessionNotFound, Capacity, KernelStartFailed."""
        self._check_open()
        return await self._errands.run(self._restart(id, base_url))

    async def _restart(self, id: str, base_url: str) -> int:
        async with self.using(id) as live:
            self._check_open()
            return await live.restart(base_url)

    # ------------------------------------------------------------ time to live

    def visiting(self, id: str) -> AbstractContextManager[None]:
        """Around a request to a session: it is not expired meanwhile, and its time begins anew."""
        return self._expiry.visit(id)

    def _watch(self, session: Session) -> None:
        self._expiry.watch(session.id, session.directory, session.ttl)

    def _quiet_since(self, watch: Watch) -> float | None:
        live = self._live.get(watch.id)
        return 0.0 if live is None else live.quiet_since

    def _expire(self, watches: list[Watch]) -> None:
        """From here on nobody finds them, so that none is deleted with a run in it."""
        self._expired.update(watch.id for watch in watches)
        self._errands.start(self._delete_expired(watches))

    async def _delete_expired(self, watches: list[Watch]) -> None:
        deletions = [self._tools.store.delete(watch.id, watch.directory) for watch in watches]
        outcomes = await asyncio.gather(*deletions, return_exceptions=True)
        self._expired.difference_update(watch.id for watch in watches)
        for watch, outcome in zip(watches, outcomes, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, SessionNotFound):
                log.warning("a session outlives its ttl", exc_info=outcome)
                self._expiry.watch(watch.id, watch.directory, watch.ttl)
        await self._end_all([one for one in outcomes if isinstance(one, Session)])

    # ------------------------------------------------------------ runs

    async def submit(self, id: str, submission: Submission | ExecSubmission) -> Running:
        """Queue a run, or run beside the queue. Raises what `LiveSession.submit` does."""
        self._check_open()
        async with self.using(id) as live:
            self._check_open()
            self._tools.host.languages.resolve_available(live.session.language)
            return await live.submit(submission)

    async def execute(self, language: str, submission: Submission) -> Running:
        """A run in a throw-away session, which is gone when the run has ended."""
        self._check_open()
        name = self._tools.host.languages.resolve_available(language).name
        return await self._throwaways.run(name, submission)

    # ------------------------------------------------------------ the end

    async def drain(self, grace: float) -> None:
        """No new runs; those under way get `grace` seconds."""
        self._closing = True
        waits = [asyncio.create_task(live.wait_idle()) for live in self._all()]
        if waits:
            _, pending = await asyncio.wait(waits, timeout=grace)
            for task in pending:
                task.cancel()
            await asyncio.wait(waits)

    async def aclose(self) -> None:
        """End every kernel; runs that are still under way end as `server stopped`."""
        self._closing = True
        self._expiry.close()
        refusal = ShuttingDown("The server is stopping.", retry_after=RETRY_AFTER)
        for live in self._all():
            self._errands.start(live.end(Reason.STOPPED, refusal))
        await self._errands.aclose()
        self._live.clear()

    @property
    def count(self) -> int:
        """How many sessions are stored."""
        return self._count

    def queues(self) -> list[int]:
        """How many runs each session has that has any: one is under way, the others wait."""
        return [live.runs for live in self._all() if live.runs]

    def _all(self) -> list[LiveSession]:
        return [*self._live.values(), *self._throwaways.live]

    # ------------------------------------------------------------ inside

    @asynccontextmanager
    async def using(self, id: str) -> AsyncIterator[LiveSession]:
        """The live session, which is not forgotten meanwhile. Raises SessionNotFound."""
        live = await self._find(id)
        with live.used():
            yield live

    async def _find(self, id: str) -> LiveSession:
        self._check_there(id)
        while id not in self._live:
            deletions = self._deletions
            session = await self._tools.store.get(id)
            self._check_there(id)
            # A row read before a deletion must not come to life after it; and another call may
            # have been faster while this one read.
            if deletions == self._deletions and id not in self._live:
                self._forget()
                self._live[id] = LiveSession(session, self._tools)
        return self._live[id]

    def _forget(self) -> None:
        """Sessions that rest are read from the store again when they are asked for."""
        if len(self._live) >= self._forget_at:
            self._live = {id: live for id, live in self._live.items() if not live.resting}
            self._forget_at = max(REMEMBERED, 2 * len(self._live))

    def _view(self, session: Session) -> SessionView:
        live = self._live.get(session.id)
        status = SessionStatus.STOPPED if live is None else live.status
        return SessionView(session, status, self._tools.host.isolation)

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDown("The server is stopping.", retry_after=RETRY_AFTER)

    def _check_there(self, id: str) -> None:
        if id in self._expired:
            raise _not_found(id)


def _not_found(id: str) -> SessionNotFound:
    return SessionNotFound(f"There is no session {id}.", id=id)
