"""Creates sessions, from the checks of a request to the stored row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import SessionExists
from era_kernels.models import NewSession, Session, now
from era_kernels.services.context import ServiceContext
from era_kernels.services.requested_limits import check_limits
from era_kernels.services.session_teardown import SessionTeardown
from era_kernels.services.validation import (
    check_changes,
    check_session_id,
    initial_code,
    new_session_id,
)
from era_kernels.storage.stored_code import StoredCode


class SessionMaker:
    """Makes sessions. `reserve` counts one more session, and uncounts it on an error."""

    def __init__(
        self,
        context: ServiceContext,
        background: BackgroundTasks,
        endings: SessionTeardown,
        reserve: Callable[[], AbstractContextManager[None]],
        on_created: Callable[[Session], None],
    ) -> None:
        self._context = context
        self._background = background
        self._endings = endings
        self._reserve = reserve
        self._on_created = on_created


class SessionCreator(SessionMaker):
    """Creates sessions with what callers name."""

    async def create(self, new: NewSession) -> tuple[Session, bool]:
        """Creates a session, which is durable when this returns; returns whether it was created.

        With `exist_ok` a session that has the id and the language already is returned instead.
        Nothing is left of a session that is refused. Raises InvalidId, InvalidRequest,
        UnsupportedLanguage, SessionExists, AtCapacity, TooLarge, Forbidden, NotEnforceable,
        InsufficientStorage, StorageFailed, EndUnfinished.
        """
        await self._check(new)
        language = self._context.host.languages.resolve(new.language)
        kernelspec = language.kernel(new.kernel)
        if new.limits is not None:
            check_limits(new.limits, self._context.limits, kernelspec, self._context.host)
        self._context.mounts.check(new.mounts)
        new = replace(new, language=language.name, kernel=new.kernel and kernelspec.name)
        return await self._background.run_shielded(self._find_or_create(new))

    async def _check(self, new: NewSession) -> None:
        check_session_id(new.id)
        self._context.service_limits.check_internet(allow_internet=new.allow_internet)
        await check_changes(
            self._context.host,
            data=new.data,
            metadata=new.metadata,
            allow_internet=new.allow_internet,
            allow_hosts=new.allow_hosts,
        )
        if new.default_timeout is not None:
            self._context.service_limits.check_timeout(new.default_timeout, "default_timeout")

    async def _find_or_create(self, new: NewSession) -> tuple[Session, bool]:
        found = await self._find_same(new)
        if found is not None:
            return found, False
        try:
            return await self._create(new), True
        except SessionExists:  # another request was faster
            found = await self._find_same(new)
            if found is None:
                raise
            return found, False

    async def _find_same(self, new: NewSession) -> Session | None:
        """Returns the session that is as good as the new one. Raises SessionExists."""
        found = await self._context.store.find(new.id) if new.exist_ok and new.id else None
        if found is not None and found.language != new.language:
            raise SessionExists(
                f"The session {new.id} exists already, in {found.language}.", id=new.id
            )
        return found

    async def _create(self, new: NewSession) -> Session:
        with self._reserve():
            session = await self._create_stored(new)
        self._on_created(session)
        return session

    async def _create_stored(self, new: NewSession) -> Session:
        if new.id is not None and await self._context.store.find(new.id):
            raise SessionExists(f"The session {new.id} exists already.", id=new.id)
        public = self._context.service_limits.public_by_default
        directory = await self._context.workspaces.create()
        session = Session(
            id=new.id or new_session_id(),
            language=new.language,
            directory=directory,
            created_at=now(),
            persistent=new.persistent,
            data=new.data,
            metadata=new.metadata,
            default_timeout=new.default_timeout,
            ttl=new.ttl,
            allow_internet=bool(new.allow_internet),
            allow_public=public if new.allow_public is None else new.allow_public,
            limits=new.limits,
            mounts=tuple(dict.fromkeys(new.mounts)),
            storage=new.storage,
            kernel=new.kernel,
            allow_hosts=new.allow_hosts,
        )
        source = initial_code(new.data)
        code = None if source is None else StoredCode(source, "", session.created_at)
        try:
            async with self._endings.taking(session.id):
                await self._context.store.create(session, code)
        except BaseException:
            await self._context.workspaces.remove(directory)
            raise
        self._context.workspaces.unfinished.keep_soon(directory)
        return session
