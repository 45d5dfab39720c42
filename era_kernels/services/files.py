"""Lists, reads, puts and deletes the files of sessions, within their quotas."""

from __future__ import annotations

from collections.abc import Callable

from era_kernels.errors import SessionNotFound
from era_kernels.models import Session
from era_kernels.services.sessions import SessionService
from era_kernels.services.validation import check_quota, check_writable_path
from era_kernels.storage.file_listing import FileChange, FileListing, is_hidden
from era_kernels.storage.files import FileStore
from era_kernels.storage.open_file import FileStatus, OpenFile
from era_kernels.storage.uploads import Upload

# Raises when the file as it is now (None: there is no file) must not be changed.
Precondition = Callable[[FileStatus | None], None]


def unconditional(status: FileStatus | None) -> None:
    """Accepts every state of the file: the change is unconditional."""


class QuotaUpload:
    """An upload to one path of a session, which is refused as soon as it exceeds the quota."""

    def __init__(self, upload: Upload, session: Session, max_size: int) -> None:
        self.upload = upload
        self.session = session
        self._max_size = max_size

    def buffer(self, data: bytes) -> bool:
        """Takes bytes without waiting; returns False, and does nothing, when `write` is due."""
        return self.upload.size + len(data) <= self._max_size and self.upload.buffer(data)

    async def write(self, data: bytes) -> None:
        """Writes bytes. Raises QuotaExceeded, InsufficientStorage, StorageFailed."""
        check_quota(self.upload.size + len(data), self._max_size)
        await self.upload.write(data)

    def discard(self) -> None:
        """Removes the upload unless it was put. A second call is fine."""
        self.upload.discard()


class FileService:
    """Lists, reads, puts and deletes files. `quota`: bytes that a workspace may hold.

    Raises what `FileStore` does, and SessionNotFound.
    """

    def __init__(self, sessions: SessionService, files: FileStore, quota: int) -> None:
        self._sessions = sessions
        self._files = files
        self._quota = quota

    async def list_files(self, session_id: str) -> FileListing:
        """Returns the user's files as they are now."""
        return await self._sessions.files(session_id)

    async def open(self, session_id: str, path: str) -> OpenFile:
        """Opens a file, which the caller closes. Raises FileNotFound, InvalidPath, Conflict."""
        session = await self._sessions.session(session_id)
        return await self._files.open(session.directory, path)

    async def start_upload(
        self,
        session_id: str,
        path: str,
        size: int,
        precondition: Precondition = unconditional,
    ) -> QuotaUpload:
        """Starts an upload of `size` bytes (0: unknown), which the caller discards in the end.

        Raises InvalidPath, Conflict, QuotaExceeded, InsufficientStorage, and what `precondition`
        does.
        """
        check_writable_path(path)
        session = await self._sessions.session(session_id)
        old = await self._files.find(session.directory, path)
        precondition(old)
        max_size = await self._max_file_size(session, path, old)
        check_quota(size, max_size)
        return QuotaUpload(await self._files.create_upload(), session, max_size)

    async def put(
        self,
        session_id: str,
        path: str,
        quota_upload: QuotaUpload,
        content_type: str,
        precondition: Precondition = unconditional,
    ) -> FileStatus:
        """Replaces the file by the whole upload and returns its status. Durable when it returns.

        Of two changes at once the second one sees the first one's outcome. Raises Conflict,
        QuotaExceeded, InsufficientStorage, StorageFailed, and what `precondition` does.
        """
        upload, directory = quota_upload.upload, quota_upload.session.directory
        status: FileStatus | None = None
        await upload.finish(content_type)
        async with self._sessions.borrow(session_id) as live_session:
            if live_session.session.directory != directory:  # a new session has the id by now
                raise SessionNotFound("The session was deleted meanwhile.", id=session_id)

            async def replace_file() -> FileChange:
                nonlocal status
                old = await self._files.find(directory, path)
                precondition(old)
                check_quota(upload.size, await self._max_file_size(live_session.session, path, old))
                change = await self._files.put(directory, path, upload)
                status = change.status
                return change

            await live_session.change_file(replace_file)
        assert status is not None
        return status

    async def delete(
        self, session_id: str, path: str, precondition: Precondition = unconditional
    ) -> None:
        """Deletes a file. Durable when it returns.

        Raises FileNotFound, InvalidPath, Conflict, and what `precondition` does.
        """
        check_writable_path(path)
        async with self._sessions.borrow(session_id) as live_session:
            directory = live_session.session.directory

            async def delete_file() -> FileChange:
                precondition(await self._files.find(directory, path))
                return await self._files.delete(directory, path)

            await live_session.change_file(delete_file)

    async def _max_file_size(self, session: Session, path: str, old: FileStatus | None) -> int:
        """Returns how many bytes a file at that path may have."""
        used = session.total_size  # without hidden files, which lists leave out
        if is_hidden(path):
            used = await self._files.used_bytes(session.directory)
        # Code may have made a file, or a hole of any size, that was not counted yet.
        own = None if session.limits is None else session.limits.workspace
        quota = self._quota if own is None else min(own, self._quota)
        return quota - max(0, used - (0 if old is None else old.size))
