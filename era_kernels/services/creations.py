"""Creations: new sessions, from the checks of a wish to the stored row."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager

from era_kernels.errors import SessionExists
from era_kernels.models import NewSession, Session, now
from era_kernels.services.bounds import check_limits
from era_kernels.services.errands import Errands
from era_kernels.services.rules import check_changes, check_id, seed_of
from era_kernels.services.tools import Tools
from era_kernels.storage.stored_code import StoredCode


class Creations:
    """Makes them. `counted` is a place for one more session, given back when an error leaves it."""

    def __init__(
        self,
        tools: Tools,
        errands: Errands,
        counted: Callable[[], AbstractContextManager[None]],
        begin: Callable[[Session], None],
    ) -> None:
        self._tools = tools
        self._errands = errands
        self._counted = counted
        self._begin = begin

    async def make(self, new: NewSession) -> Session:
        """A new session, durable when this returns. Nothing is left of one that is refused.

        Raises InvalidId, InvalidRequest, UnsupportedLanguage, SessionExists, Capacity, TooLarge,
        NotEnforceable, InsufficientStorage, StorageFailed.
        """
        self._check(new)
        language = self._tools.host.languages.resolve(new.language)
        if new.limits is not None:
            check_limits(new.limits, self._tools.limits, language, self._tools.host)
        self._tools.mounts.check(new.mounts)
        return await self._errands.run(self._make(new, language.name))

    def _check(self, new: NewSession) -> None:
        check_id(new.id)
        check_changes(
            self._tools.host.isolation,
            data=new.data,
            metadata=new.metadata,
            allow_internet=new.allow_internet,
        )
        if new.default_timeout is not None:
            self._tools.rules.check_timeout(new.default_timeout, "default_timeout")

    async def _make(self, new: NewSession, language: str) -> Session:
        with self._counted():
            session = await self._store(new, language)
        self._begin(session)
        return session

    async def _store(self, new: NewSession, language: str) -> Session:
        if new.id is not None and await self._tools.store.find(new.id):
            raise SessionExists(f"The session {new.id} exists already.", id=new.id)
        public = self._tools.rules.public_by_default
        directory = await self._tools.workspaces.create()
        session = Session(
            id=new.id or f"sess-{secrets.token_hex(16)}",
            language=language,
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
        )
        seed = seed_of(new.data)
        code = None if seed is None else StoredCode(seed, "", session.created_at)
        try:
            await self._tools.store.create(session, code)
        except BaseException:
            await self._tools.workspaces.remove(directory)
            raise
        return session
