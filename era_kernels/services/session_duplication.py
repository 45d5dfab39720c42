"""Makes new sessions with the files, packages, data and code of others."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from dataclasses import dataclass

from era_kernels.errors import KernelSilent, SessionExists, UnsupportedLanguage
from era_kernels.models import JsonObject, Session, Variables, now
from era_kernels.services.session.session import LiveSession
from era_kernels.services.session_creation import SessionMaker
from era_kernels.services.validation import new_session_id
from era_kernels.storage.workspaces import CopyCancelled


@dataclass(frozen=True, slots=True)
class DuplicateRequest:
    """Asks for a duplicate: its id, random if None; its data, the source's if None.

    With `skip_queue`, the copy does not wait for the runs of the source.
    """

    id: str | None = None
    data: JsonObject | None = None
    skip_queue: bool = False


class SessionDuplicator(SessionMaker):
    """Duplicates sessions."""

    async def duplicate(
        self, source: LiveSession, request: DuplicateRequest
    ) -> tuple[Session, Variables | None]:
        """Duplicates a session; the duplicate is durable when this returns.

        Returns with it the variables of the source, which it does not have: none with `skip_queue`,
        None where the source's kernel cannot list them.

        Nothing is left of a duplicate that could not be made, or whose caller is cancelled before
        it is complete. Raises SessionExists, SessionNotFound, AtCapacity, QueueFull, TooLarge,
        InsufficientStorage, StorageFailed, EndUnfinished.
        """
        if request.id is not None and await self._context.store.find(request.id):
            raise SessionExists(f"The session {request.id} exists already.", id=request.id)
        caller_left, copied = threading.Event(), asyncio.Event()
        try:
            async with source.frozen_files(wait_in_queue=not request.skip_queue):
                lost = Variables() if request.skip_queue else await self._find_variables(source)
                task = self._background.spawn(self._duplicate(source, request, caller_left, copied))
                # No longer: the end of the source waits for this, and the new id may have to wait
                # for that end, or for a deletion of all sessions.
                await copied.wait()
            return await asyncio.shield(task), lost
        except asyncio.CancelledError:
            caller_left.set()
            raise

    async def _find_variables(self, source: LiveSession) -> Variables | None:
        """Returns the variables of a session's kernel, None where it cannot list them."""
        machine = source.session_machine.find(with_kernel=True)
        if machine is None:
            return Variables()
        try:
            if self._context.host.languages.has_capability(source.session, "variables"):
                return await machine.kernel.control.variables()
        except (KernelSilent, UnsupportedLanguage):  # the language has gone, and its kernel is left
            pass
        return None

    async def _duplicate(
        self,
        source: LiveSession,
        request: DuplicateRequest,
        caller_left: threading.Event,
        copied: asyncio.Event,
    ) -> Session:
        """Makes the duplicate; `copied` is set when the source is not needed any more."""
        try:
            with self._reserve():
                directory = await self._context.workspaces.create()
                try:
                    session = await self._copy(source, request, directory, caller_left)
                    code = await self._context.codes.find(source.session.directory)
                    copied.set()
                    async with self._endings.taking(session.id):
                        await self._context.store.create(session, code)
                    self._on_created(session)
                except BaseException:
                    await self._context.workspaces.remove(directory)
                    raise
                await self._context.workspaces.unfinished.keep(directory)
                return session
        finally:
            copied.set()

    async def _copy(
        self,
        source: LiveSession,
        request: DuplicateRequest,
        directory: str,
        caller_left: threading.Event,
    ) -> Session:
        """Copies the files; returns the row that is to be stored then.

        Until it is stored, a killed server leaves a directory that the next start removes.
        """
        original = source.session
        data = original.data if request.data is None else request.data
        try:
            files = await self._context.workspaces.copy(
                original.directory,
                directory,
                data,
                lambda: caller_left.is_set() or source.is_closed,
            )
        except CopyCancelled:
            source.check_open()
            raise asyncio.CancelledError from None  # the caller was cancelled
        finally:
            source.check_open()  # a source that was deleted was not copied whole
        return dataclasses.replace(
            original,
            id=request.id or new_session_id(),
            directory=directory,
            created_at=now(),
            data=data,
            last_run_at=None,
            file_count=files.count,
            total_size=files.total_size,
            kernel_generation=0,
        )
