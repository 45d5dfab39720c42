"""Duplicates: new sessions with the files, packages, data and code of others."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from era_kernels.errors import SessionExists
from era_kernels.models import JsonObject, Session, now
from era_kernels.services.errands import Errands
from era_kernels.services.live import LiveSession
from era_kernels.services.tools import Tools
from era_kernels.storage.workspaces import CopyCancelled


@dataclass(frozen=True, slots=True)
class Wish:
    """For a duplicate: its id, random if None; its data, the source's if None.

    `at_once`: do not wait for the runs of the source.
    """

    id: str | None = None
    data: JsonObject | None = None
    at_once: bool = False


class Duplicates:
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

    async def make(self, source: LiveSession, wish: Wish) -> Session:
        """A duplicate, durable when this returns. Nothing is left of one that could not be made.

        Nor of one whose caller leaves before it is there. Raises SessionExists, SessionNotFound,
        Capacity, QueueFull, TooLarge, InsufficientStorage, StorageFailed.
        """
        if wish.id is not None and await self._tools.store.find(wish.id):
            raise SessionExists(f"The session {wish.id} exists already.", id=wish.id)
        left = threading.Event()
        try:
            async with source.still(in_turn=not wish.at_once):
                return await self._errands.run(self._make(source, wish, left))
        except asyncio.CancelledError:
            left.set()
            raise

    async def _make(self, source: LiveSession, wish: Wish, left: threading.Event) -> Session:
        with self._counted():
            directory = await self._tools.workspaces.create()
            try:
                return await self._fill(source, wish, directory, left)
            except BaseException:
                await self._tools.workspaces.remove(directory)
                raise

    async def _fill(
        self, source: LiveSession, wish: Wish, directory: str, left: threading.Event
    ) -> Session:
        """The row comes last: until then a killed server leaves a directory that is swept."""
        old = source.session
        data = old.data if wish.data is None else wish.data
        try:
            files = await self._tools.workspaces.copy(
                old.directory, directory, data, lambda: left.is_set() or source.ended
            )
        except CopyCancelled:
            source.check_open()
            raise asyncio.CancelledError from None  # the caller has left
        finally:
            source.check_open()  # a source that was deleted was not copied whole
        session = dataclasses.replace(
            old,
            id=wish.id or f"sess-{secrets.token_hex(16)}",
            directory=directory,
            created_at=now(),
            data=data,
            last_run_at=None,
            file_count=files.count,
            total_size=files.total_size,
            kernel_generation=0,
        )
        await self._tools.store.create(session, await self._tools.codes.find(old.directory))
        self._begin(session)
        return session
