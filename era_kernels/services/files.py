"""The files of sessions: who asks for a session's file reaches it here, within its quota."""

from __future__ import annotations

from collections.abc import Callable

from era_kernels.errors import SessionNotFound
from era_kernels.models import Session
from era_kernels.services.sessions import SessionService
from era_kernels.services.validation import check_quota, check_writable_path
from era_kernels.storage.files import FileStatus, FileStore, OpenFile
from era_kernels.storage.snapshot import Change, Snapshot, is_hidden
from era_kernels.storage.uploads import Upload

# Raises when a change is not meant for the file as it is now; None: there is no file.
Meant = Callable[[FileStatus | None], None]


def always(status: FileStatus | None) -> None:
    """The change is meant for whatever is there."""


class Incoming:
    """An upload to one path of a session, refused as soon as it is past the quota."""

    def __init__(self, upload: Upload, session: Session, room: int) -> None:
        self.upload = upload
        self.session = session
        self._room = room

    async def write(self, data: bytes) -> None:
        """Raises QuotaExceeded, InsufficientStorage, StorageFailed."""
        check_quota(self.upload.size + len(data), self._room)
        await self.upload.write(data)

    def forget(self) -> None:
        """Nothing is left of it, unless it was put. A second call is fine."""
        self.upload.discard()


class SessionFiles:
    """Lists, reads, puts and deletes. `quota`: bytes that a workspace may hold.

    Raises what `Files` does, and SessionNotFound.
    """

    def __init__(self, sessions: SessionService, files: FileStore, quota: int) -> None:
        self._sessions = sessions
        self._files = files
        self._quota = quota

    async def list_files(self, id: str) -> Snapshot:
        """The user's files as they are now."""
        return await self._sessions.files(id)

    async def open(self, id: str, path: str) -> OpenFile:
        """The caller closes it. Raises FileNotFound, InvalidPath, Conflict."""
        session = await self._sessions.session(id)
        return await self._files.open(session.directory, path)

    async def begin(
        self,
        id: str,
        path: str,
        size: int,
        meant: Meant = always,
    ) -> Incoming:
        """An upload of `size` bytes, 0 where nobody knows. The caller forgets it in the end.

        Raises InvalidPath, Conflict, QuotaExceeded, InsufficientStorage, and what `meant` does.
        """
        check_writable_path(path)
        session = await self._sessions.session(id)
        old = await self._files.find(session.directory, path)
        meant(old)
        room = await self._room(session, path, old)
        check_quota(size, room)
        return Incoming(await self._files.create_upload(), session, room)

    async def put(
        self,
        id: str,
        path: str,
        incoming: Incoming,
        content_type: str,
        meant: Meant = always,
    ) -> int:
        """The whole upload becomes the file; its size. Durable when it returns.

        Of two changes at once the second one sees the first one's outcome. Raises Conflict,
        QuotaExceeded, InsufficientStorage, StorageFailed, and what `meant` does.
        """
        upload, directory = incoming.upload, incoming.session.directory
        await upload.finish(content_type)
        async with self._sessions.borrow(id) as live:
            if live.session.directory != directory:  # another one has its id by now
                raise SessionNotFound("The session was deleted meanwhile.", id=id)

            async def step() -> Change:
                old = await self._files.find(directory, path)
                meant(old)
                check_quota(upload.size, await self._room(live.session, path, old))
                return await self._files.put(directory, path, upload)

            await live.change_file(step)
        return upload.size

    async def delete(self, id: str, path: str, meant: Meant = always) -> None:
        """Durable when it returns. Raises FileNotFound, InvalidPath, Conflict, as `meant` does."""
        check_writable_path(path)
        async with self._sessions.borrow(id) as live:
            directory = live.session.directory

            async def step() -> Change:
                meant(await self._files.find(directory, path))
                return await self._files.delete(directory, path)

            await live.change_file(step)

    async def _room(self, session: Session, path: str, old: FileStatus | None) -> int:
        """How many bytes a file at that path may have."""
        used = session.total_size  # without what lists leave out
        if is_hidden(path):
            used = await self._files.used_bytes(session.directory)
        # Code may have made a file, or a hole of any size, that was not counted yet.
        own = None if session.limits is None else session.limits.workspace
        quota = self._quota if own is None else min(own, self._quota)
        return quota - max(0, used - (0 if old is None else old.size))
