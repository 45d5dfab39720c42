"""Creates, finds, changes and ends all sessions, within the server's limits."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import datetime

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import (
    AtCapacity,
    EraError,
    SessionNotFound,
    ShuttingDown,
)
from era_kernels.models import (
    EndReason,
    ExecSubmission,
    NewSession,
    Session,
    SessionStatus,
    SessionView,
    Submission,
    Variables,
    now,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.ephemeral import EphemeralSessions
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS
from era_kernels.services.session.commands import has_run
from era_kernels.services.session.session import LiveSession
from era_kernels.services.session_creation import SessionCreator
from era_kernels.services.session_deletion import SessionDeleter
from era_kernels.services.session_duplication import DuplicateRequest, SessionDuplicator
from era_kernels.services.session_teardown import (
    MAX_CONCURRENT_ENDS,
    SessionTeardown,
)
from era_kernels.services.ttl import TtlEntry, TtlTimer
from era_kernels.services.validation import (
    check_changes,
    check_session_id,
    check_submission,
)
from era_kernels.storage.workspaces import FileListing

log = logging.getLogger(__name__)

EVICTION_THRESHOLD = 64  # sessions in memory from which on idle ones are evicted


class SessionService:
    """Serves the web layer's calls on sessions.

    A session in use has one LiveSession in memory; the others are in the store only.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._live: dict[str, LiveSession] = {}
        background = self._background = BackgroundTasks(expected_errors=(EraError,))
        endings = SessionTeardown(context, background, self._on_gone)
        self._deleter = SessionDeleter(
            context, endings, self._find_live, self._pop_live, self._discard_ttl
        )
        self._ephemeral = EphemeralSessions(context, background, endings, self._check_open)
        make_one = (context, background, endings, self._reserve, self._set_ttl)
        self._creator = SessionCreator(*make_one)
        self._duplicator = SessionDuplicator(*make_one)
        self._ttl_timer = TtlTimer(self._idle_since, self._on_expired)
        self._expired_ids: set[str] = set()  # sessions whose rows are just being deleted
        self._count = 0
        self._evict_at = EVICTION_THRESHOLD
        self._is_closing = False

    async def open(self) -> None:
        """Removes what a former server left behind, counts the sessions and sets their ttl."""
        stored, self._count = await self._context.store.list_sessions()
        sessions = list(stored)
        deleted = await self._context.store.deleted.names()
        directories = {session.directory for session in sessions}
        await self._context.workspaces.reconcile(directories, deleted)
        self._context.store.deleted.forget_soon(deleted)
        for session in sessions:
            if not session.persistent and await has_run(self._context, session):
                await self._context.workspaces.clear_files(session.directory)
            self._set_ttl(session)

    # ------------------------------------------------------------ sessions

    async def create(self, new: NewSession) -> tuple[SessionView, bool]:
        """Creates a session, unless there is one that is as good; returns whether it was created.

        Raises as `SessionCreator.create` does; nothing changes then.
        """
        self._check_open()
        await self._deleter.endings.wait(new.id)
        session, is_new = await self._creator.create(new)
        live = None if is_new else self._live.get(session.id)
        if live is not None and live.session.directory == session.directory:
            session = live.session
        with self.touch(session.id):
            return self._view(session), is_new

    @contextmanager
    def _reserve(self) -> Iterator[None]:
        """Counts one more session, and uncounts it on an error. Raises AtCapacity."""
        if self._count >= self._context.service_limits.max_sessions:
            raise AtCapacity(
                f"There are {self._count} sessions, which is as many as this server keeps.",
                hint="Delete a session that is not needed, or raise max_sessions.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._count += 1
        try:
            yield
        except BaseException:
            self._count -= 1
            raise

    async def duplicate(
        self, session_id: str, request: DuplicateRequest
    ) -> tuple[SessionView, Variables | None]:
        """Makes a new session like this one, without its variables, which are returned, too.

        Raises as `SessionDuplicator.duplicate` does, and InvalidId.
        """
        self._check_open()
        check_session_id(request.id)
        await check_changes(self._context.host, data=request.data)
        await self._deleter.endings.wait(request.id)
        async with self.borrow(session_id) as source:
            session, lost = await self._duplicator.duplicate(source, request)
            return self._view(session), lost

    async def get(self, session_id: str) -> SessionView:
        """Returns the session with its status. Raises SessionNotFound."""
        return self._view(await self.session(session_id))

    async def session(self, session_id: str) -> Session:
        """Returns the session's present values. Raises SessionNotFound."""
        self._check_not_expired(session_id)
        live = self._live.get(session_id)
        return live.session if live else await self._context.store.get(session_id)

    async def list_sessions(
        self,
        limit: int | None = None,
        offset: int = 0,
        language: str | None = None,
        *,
        prefix: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Iterator[SessionView], int]:
        """Returns views without `data`, oldest first, and how many sessions there are in all.

        Only those count that have that language, an id that begins with `prefix` and those labels.
        Each view is made when the iterator reaches it, with the status of that moment.
        """
        name = self._context.host.languages.resolve(language).name if language else None
        sessions, total = await self._context.store.list_sessions(
            limit, offset, name, prefix=prefix, metadata=metadata or {}
        )
        return (self._view(self._with_live_values(session)) for session in sessions), total

    def _with_live_values(self, stored: Session) -> Session:
        """Returns the values of the live session, if there is one, without `data` as in lists."""
        live = self._live.get(stored.id)
        if live is None or live.session.directory != stored.directory:
            return stored
        return dataclasses.replace(live.session, data={})

    async def files(self, session_id: str) -> FileListing:
        """Returns the user's files as they are now. Raises SessionNotFound."""
        session = await self.session(session_id)
        return await self._context.workspaces.scan(session.directory)

    async def update(self, session_id: str, **changes: object) -> SessionView:
        """Changes fields: `data`, `metadata`, `default_timeout`, `ttl`, `storage`, `allow_…`.

        Raises SessionNotFound, InvalidRequest, TooLarge, Forbidden, NotEnforceable.
        """
        self._context.service_limits.check_internet(**changes)
        await check_changes(self._context.host, **changes)
        timeout = changes.get("default_timeout")
        if isinstance(timeout, int | float):
            self._context.service_limits.check_timeout(timeout, "default_timeout")
        return self._view(await self._background.run_shielded(self._update(session_id, changes)))

    async def _update(self, session_id: str, changes: dict[str, object]) -> Session:
        async with self.borrow(session_id) as live:
            await live.update(**changes)
            if "ttl" in changes:
                self._set_ttl(live.session)
            return live.session

    async def delete(self, session_id: str) -> datetime:
        """Deletes a session; returns the time of deletion.

        Kernel, children and files are gone and the id is free when this returns. Raises
        SessionNotFound, and EndUnfinished when processes do not end: that goes on, and a second
        call tells how it stands.
        """
        await self._background.run_shielded(self._delete(session_id))
        return now()

    async def _delete(self, session_id: str) -> None:
        self._check_not_expired(session_id)
        await self._deleter.delete(session_id)

    async def delete_all(self) -> list[str]:
        """Deletes every session; returns their ids."""
        return await self._background.run_shielded(self._deleter.delete_all())

    def _on_gone(self, session: Session) -> None:
        self._count -= 1

    def _find_live(self, session: Session) -> LiveSession | None:
        """Returns the live session of that row, but not a newer session with the same id."""
        live = self._live.get(session.id)
        return live if live and live.session.directory == session.directory else None

    def _pop_live(self, session: Session) -> LiveSession | None:
        """Takes out the live session of that row, as `_find_live` finds it."""
        return self._live.pop(session.id) if self._find_live(session) else None

    def _discard_ttl(self, session: Session) -> None:
        self._ttl_timer.discard(session.id, session.directory)

    async def restart(self, session_id: str, base_url: str) -> int:
        """Starts a fresh kernel; returns its generation.

        Raises SessionNotFound, AtCapacity, KernelStartFailed.
        """
        self._check_open()
        return await self._background.run_shielded(self._restart(session_id, base_url))

    async def _restart(self, session_id: str, base_url: str) -> int:
        async with self.borrow(session_id) as live:
            self._check_open()
            return await live.restart(base_url)

    # ------------------------------------------------------------ time to live

    def touch(self, session_id: str) -> AbstractContextManager[None]:
        """Keeps a session from expiring during a request; its ttl begins anew at the end.

        The web layer calls it for each request to a session.
        """
        return self._ttl_timer.hold(session_id)

    def _set_ttl(self, session: Session) -> None:
        self._ttl_timer.set_ttl(session.id, session.directory, session.ttl)

    def _idle_since(self, entry: TtlEntry) -> float | None:
        live = self._live.get(entry.session_id)
        return 0.0 if live is None else live.idle_since

    def _on_expired(self, entries: list[TtlEntry]) -> None:
        """Deletes expired sessions; no call finds them from here on, so none gets a run."""
        self._expired_ids.update(entry.session_id for entry in entries)
        self._background.spawn(self._delete_expired(entries))

    async def _delete_expired(self, entries: list[TtlEntry]) -> None:
        semaphore = asyncio.Semaphore(MAX_CONCURRENT_ENDS)
        deletions = [
            self._deleter.begin(entry.session_id, entry.directory, semaphore) for entry in entries
        ]
        results = await asyncio.gather(*deletions, return_exceptions=True)
        self._expired_ids.difference_update(entry.session_id for entry in entries)
        outcomes: list[asyncio.Future[None]] = []
        for entry, result in zip(entries, results, strict=True):
            if not isinstance(result, BaseException):
                outcomes += result
            elif not isinstance(result, SessionNotFound):
                log.warning("a session outlives its ttl", exc_info=result)
                self._ttl_timer.set_ttl(entry.session_id, entry.directory, entry.ttl)
        await self._deleter.endings.finish(outcomes)

    # ------------------------------------------------------------ runs

    async def submit(
        self, session_id: str, submission: Submission | ExecSubmission
    ) -> LiveExecution:
        """Queues a run, or starts a command beside the queue. Raises as `LiveSession.submit`."""
        self._check_open()
        async with self.borrow(session_id) as live:
            self._check_open()
            session = live.session
            # The operator may have taken away the kernel that the session was created with.
            languages = self._context.host.languages
            kernelspec = await languages.available_kernel(session.language, session.kernel)
            await check_submission(submission, kernelspec)
            return await live.submit(submission)

    async def execute(self, language: str, submission: Submission) -> LiveExecution:
        """Starts a run in a throw-away session, which is deleted when the run has ended."""
        self._check_open()
        kernelspec = await self._context.host.languages.available_kernel(language)
        await check_submission(submission, kernelspec)
        return await self._ephemeral.run(kernelspec.language, submission)

    # ------------------------------------------------------------ the end

    async def drain(self, grace: float) -> None:
        """Refuses new runs; waits up to `grace` seconds for runs that are under way or queued."""
        self._is_closing = True
        waits = [asyncio.create_task(live.wait_idle()) for live in self._all_live()]
        if waits:
            _, pending = await asyncio.wait(waits, timeout=grace)
            for task in pending:
                task.cancel()
            await asyncio.wait(waits)

    async def aclose(self) -> None:
        """Ends every kernel; runs that are still under way end as `server stopped`."""
        self._is_closing = True
        self._deleter.endings.close()
        self._ttl_timer.close()
        closed_error = ShuttingDown("The server is stopping.", retry_after=RETRY_AFTER_SECONDS)
        for live in self._all_live():
            self._background.spawn(live.end(EndReason.STOPPED, closed_error))
        await self._background.aclose()
        self._live.clear()

    @property
    def count(self) -> int:
        """The number of stored sessions, and of those being created."""
        return self._count

    def run_counts(self) -> list[int]:
        """Returns the number of runs of each session that has any.

        One of them is under way, the others wait.
        """
        return [live.run_count for live in self._all_live() if live.run_count]

    def _all_live(self) -> list[LiveSession]:
        return [*self._live.values(), *self._ephemeral.live]

    # ------------------------------------------------------------ live sessions

    @asynccontextmanager
    async def borrow(self, session_id: str) -> AsyncIterator[LiveSession]:
        """Gives the live session, which stays in memory meanwhile. Raises SessionNotFound."""
        live = await self._get_live(session_id)
        with live.borrow():
            yield live

    async def _get_live(self, session_id: str) -> LiveSession:
        self._check_not_expired(session_id)
        while session_id not in self._live:
            deletion_count = self._deleter.endings.deletion_count
            session = await self._context.store.get(session_id)
            self._check_not_expired(session_id)
            # A row that was read before a deletion must not become a live session after it; and
            # another call may have made the live session while this one read.
            if (
                deletion_count == self._deleter.endings.deletion_count
                and session_id not in self._live
            ):
                self._evict_idle()
                self._live[session_id] = LiveSession(session, self._context)
        return self._live[session_id]

    def _evict_idle(self) -> None:
        """Drops idle sessions from memory once there are many; the store is read again on use."""
        if len(self._live) >= self._evict_at:
            self._live = {
                session_id: live for session_id, live in self._live.items() if not live.is_evictable
            }
            self._evict_at = max(EVICTION_THRESHOLD, 2 * len(self._live))

    def _view(self, session: Session) -> SessionView:
        live = self._live.get(session.id)
        status = SessionStatus.STOPPED if live is None else live.status
        return SessionView(session, status, self._context.isolation_of(session))

    def _check_open(self) -> None:
        if self._is_closing:
            raise ShuttingDown("The server is stopping.", retry_after=RETRY_AFTER_SECONDS)

    def _check_not_expired(self, session_id: str) -> None:
        if session_id in self._expired_ids:
            raise SessionNotFound.for_id(session_id)
