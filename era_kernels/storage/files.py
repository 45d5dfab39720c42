"""A session's files by path: read, put and deleted while hostile code changes all of it."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from era_kernels.errors import Conflict, EraError, FileNotFound, InvalidPath, SessionNotFound
from era_kernels.safe_fs.openat import open_beneath, open_directory, open_regular, sync_file_system
from era_kernels.safe_fs.tree import closing_fd, ensure_directory, walk
from era_kernels.storage import content_types, uploads
from era_kernels.storage.data_file import FileStamp
from era_kernels.storage.ownership import chown_like, chown_path_like
from era_kernels.storage.snapshot import MAX_ENTRIES, Change, time_from_mtime
from era_kernels.storage.threads import SerialExecutor, StorageThreads
from era_kernels.storage.uploads import Upload

CHUNK_BYTES = 512 * 1024  # bytes that are read in one step
THREADS = 4  # for what is quick, and as many for uploads, which wait for the disk
MAX_SYNCED_DIRECTORIES = (
    16  # from which on it is faster to write all that the file system has to write
)
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095  # what Linux takes: see pathname(7) and NAME_MAX
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY

# What leads out of the workspace, or is no regular file, is not there for callers.
_NOT_FOUND_ERRNOS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP, errno.EINVAL, errno.ENXIO}
    | {errno.ENAMETOOLONG}
)
# Modes, attributes, leases, mounts, and renames without a pause.
_NO_ACCESS_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY})


def validate_path(path: str) -> str:
    """The path of a file below a workspace, as it was given. Raises InvalidPath.

    Nothing is normalised: what would need it (`..`, `.`, an empty part) is refused.
    """
    if "\0" in path:
        raise InvalidPath("A path holds no NUL.")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise InvalidPath(
                "A path is relative, and no part of it is empty, `.` or `..`.",
                hint="A file is named like data/input.csv.",
            )
        if len(os.fsencode(part)) > MAX_NAME_BYTES:
            raise InvalidPath(f"A file's name may have {MAX_NAME_BYTES} bytes.")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidPath(f"A path may have {MAX_PATH_BYTES} bytes.")
    return path


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A regular file as it is now: `size` in bytes; `etag` changes when its content does.

    `modified_at` has whole seconds. The type is told of a file that was opened.
    """

    size: int
    modified_at: datetime
    etag: str
    content_type: str = ""


class OpenFile:
    """A file to read. It stays the same file, also when it is replaced or deleted meanwhile."""

    def __init__(self, descriptor: int, status: FileStatus, threads: StorageThreads) -> None:
        self.status = status
        self._descriptor = descriptor
        self._executor = SerialExecutor(threads)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes of a range; fewer when code cuts the file meanwhile. Raises StorageFailed."""
        while start < stop:
            piece = await self._executor.run(
                os.pread, self._descriptor, min(CHUNK_BYTES, stop - start), start
            )
            if not piece:
                return
            start += len(piece)
            yield piece

    async def aclose(self) -> None:
        """A second call is fine. Nobody waits: what still reads is finished first."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._executor.submit(os.close, descriptor)


class FileStore:
    """The files below the workspaces of `sessions`; `incoming` holds uploads on their way.

    Where code has shut a file or keeps it for itself, every call raises Conflict.
    """

    def __init__(self, sessions: Path, incoming: Path) -> None:
        self._sessions = sessions
        self._incoming = incoming
        self._threads = StorageThreads("file", THREADS)
        self._uploads = StorageThreads("upload", THREADS)

    async def remove_unfinished(self) -> None:
        """After a start: uploads that a former server did not finish are removed."""
        await self._threads.run(uploads.remove_unfinished, self._incoming)

    async def open(self, directory: str, path: str) -> OpenFile:
        """Raises FileNotFound (also for what is no regular file), InvalidPath, SessionNotFound,
        StorageFailed.
        """
        validate_path(path)
        descriptor, status = await self._threads.run(self._open, directory, path)
        return OpenFile(descriptor, status, self._threads)

    async def find(self, directory: str, path: str) -> FileStatus | None:
        """The file as it is now, None where there is none. Raises as `open` does."""
        validate_path(path)
        return await self._threads.run(self._find, directory, path)

    async def used_bytes(self, directory: str) -> int:
        """Bytes of all files in a workspace, those that lists leave out too; takes its time."""
        return await self._uploads.run(self._used_bytes, directory)

    async def create_upload(self) -> Upload:
        """A new upload. Raises InsufficientStorage, StorageFailed."""
        temporary = self._new_temporary()
        descriptor = await self._uploads.run(uploads.create_temporary, temporary)
        return Upload(temporary, descriptor, self._uploads)

    async def put(self, directory: str, path: str, upload: Upload) -> Change:
        """Give an upload that is `finished` its place, whole; what was there is replaced.

        Durable when it returns. Missing directories are made. Raises InvalidPath, Conflict where
        a directory or a file is in the way, SessionNotFound, InsufficientStorage, StorageFailed.
        """
        validate_path(path)

        def move(temporary: Path, descriptor: int) -> Change:
            resolved, before = self._put(directory, path, temporary, durable=True)
            return Change(resolved, before, _stamp_of(os.fstat(descriptor)))

        return await upload.move(move)

    async def write(self, directory: str, path: str, data: bytes) -> None:
        """A file of a session that lasts as short as its run: not durable. Raises as `put` does."""
        validate_path(path)
        await self._threads.run(self._write, directory, path, data)

    async def delete(self, directory: str, path: str) -> Change:
        """Durable when it returns. A symbolic link is deleted itself.

        Raises FileNotFound, InvalidPath, Conflict for a directory, SessionNotFound, StorageFailed.
        """
        validate_path(path)
        return await self._threads.run(self._delete, directory, path)

    async def aclose(self) -> None:
        """Finish what was begun; a second call is fine."""
        for threads in (self._threads, self._uploads):
            await asyncio.to_thread(threads.close)

    def _new_temporary(self) -> Path:
        return self._incoming / secrets.token_hex(8)

    # ------------------------------------------------------------ in a thread

    def _open(self, directory: str, path: str) -> tuple[int, FileStatus]:
        with _translate_errors(_file_not_found()), self._open_workspace(directory) as workspace:
            descriptor = open_regular(workspace, path, follow_symlinks=True)
            try:
                found = os.fstat(descriptor)
                _check_owner(workspace, found)
                return descriptor, _status(found, content_types.detect(descriptor, path))
            except BaseException:
                os.close(descriptor)
                raise

    def _find(self, directory: str, path: str) -> FileStatus | None:
        with (
            suppress(FileNotFound),
            _translate_errors(_file_not_found()),
            self._open_workspace(directory) as workspace,
        ):
            with closing_fd(
                open_beneath(workspace, path, os.O_PATH, follow_symlinks=True)
            ) as path_descriptor:
                found = os.fstat(path_descriptor)
            return _status(found) if stat.S_ISREG(found.st_mode) else None
        return None

    def _used_bytes(self, directory: str) -> int:
        with _translate_errors(_file_not_found()), self._open_workspace(directory) as workspace:
            found = walk(workspace, lambda folder, name: False, MAX_ENTRIES)
            return sum(status.st_size for _, status in found)

    def _delete(self, directory: str, path: str) -> Change:
        folder, _, name = path.rpartition("/")
        with (
            _translate_errors(_file_not_found()),
            self._open_workspace(directory) as workspace,
            closing_fd(
                open_beneath(workspace, folder or ".", _DIRECTORY_FLAGS, follow_symlinks=True)
            ) as parent,
        ):
            resolved, before = _resolve_path(workspace, parent, path), _stamp_at(parent, name)
            os.unlink(name, dir_fd=parent)
            os.fsync(parent)
        return Change(resolved, before, None)

    def _put(
        self, directory: str, path: str, temporary: Path, *, durable: bool
    ) -> tuple[str, FileStamp | None]:
        """Rename it into its place: the path without links, and the stamp of what was there."""
        folder, _, name = path.rpartition("/")
        with (
            _translate_errors(_parent_conflict()),
            self._open_workspace(directory, make=True) as workspace,
            closing_fd(_ensure_parent(workspace, folder, durable=durable)) as parent,
        ):
            resolved, before = _resolve_path(workspace, parent, path), _stamp_at(parent, name)
            chown_path_like(temporary, workspace)
            os.rename(temporary, name, dst_dir_fd=parent)
            if durable:
                os.fsync(parent)
        return resolved, before

    def _write(self, directory: str, path: str, data: bytes) -> None:
        temporary = self._new_temporary()
        try:
            with closing_fd(uploads.create_temporary(temporary)) as descriptor:
                uploads.write_all(descriptor, data)
            self._put(directory, path, temporary, durable=False)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _open_workspace(self, directory: str, *, make: bool = False) -> Iterator[int]:
        """`make`: code may have removed it, or put something else in its place."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            session_directory = os.open(self._sessions / directory, flags)
        except FileNotFoundError as error:
            raise SessionNotFound("The session is gone.") from error
        with closing_fd(session_directory):
            if make:
                ensure_directory(session_directory, "workspace")
            with closing_fd(open_directory(session_directory, "workspace")) as workspace:
                yield workspace


@contextmanager
def _translate_errors(not_found: EraError) -> Iterator[None]:
    """What hostile code can do to a path is told as a refusal: it is no failure of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_FOUND_ERRNOS:
            raise not_found from error
        if error.errno in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            raise Conflict("This is a directory, and not a file.") from error
        if error.errno in _NO_ACCESS_ERRNOS:
            raise Conflict(
                "Code in the session has shut this file or its directory, or keeps it for itself."
            ) from error
        raise


def _file_not_found() -> FileNotFound:
    return FileNotFound("There is no such file in this session.")


def _parent_conflict() -> Conflict:
    return Conflict("Something that is no directory is in the way of the file.")


def _check_owner(workspace: int, found: os.stat_result) -> None:
    """A hard link to somebody else's file would show what the session's user may not read."""
    if found.st_nlink > 1 and found.st_uid != os.fstat(workspace).st_uid:
        raise _file_not_found()


def _status(found: os.stat_result, content_type: str = "") -> FileStatus:
    # The time of the last change of the inode is in it because code cannot set that one.
    identity = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return FileStatus(
        size=found.st_size,
        modified_at=time_from_mtime(found.st_mtime_ns).replace(microsecond=0),
        etag='"' + "-".join(f"{number:x}" for number in identity) + '"',
        content_type=content_type,
    )


def _resolve_path(workspace: int, parent: int, path: str) -> str:
    """The path as a walk finds it: without the links that lead to it."""
    name = path.rpartition("/")[2]
    with suppress(OSError):  # deeper than a path may be
        root, here = _path_of(workspace), _path_of(parent)
        if here == root:
            return name
        if here.startswith(f"{root}/"):
            return f"{here[len(root) + 1 :]}/{name}"
    return path


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a descriptor, no path


def _stamp_at(parent: int, name: str) -> FileStamp | None:
    """The stamp of a regular file; None for all else."""
    with suppress(OSError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return _stamp_of(status)
    return None


def _stamp_of(status: os.stat_result) -> FileStamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _ensure_parent(workspace: int, folder: str, *, durable: bool) -> int:
    """A directory below the workspace, made with its parents where missing. Raises OSError."""
    with suppress(FileNotFoundError):
        return open_beneath(workspace, folder or ".", _DIRECTORY_FLAGS, follow_symlinks=True)
    parent, changed = os.dup(workspace), list[str]()
    parts = folder.split("/")
    for depth, name in enumerate(parts):
        # From the workspace each time: a link may lead elsewhere below it.
        path = "/".join(parts[: depth + 1])
        with closing_fd(parent):
            try:
                parent = open_beneath(workspace, path, _DIRECTORY_FLAGS, follow_symlinks=True)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=parent)
                changed.append("/".join(parts[:depth]) or ".")
                parent = open_beneath(workspace, path, _DIRECTORY_FLAGS, follow_symlinks=True)
                chown_like(parent, workspace)
    try:
        _sync_directories(workspace, changed if durable else [])
    except BaseException:
        os.close(parent)
        raise
    return parent


def _sync_directories(workspace: int, folders: list[str]) -> None:
    """What was made in them is safe on disk."""
    if len(folders) > MAX_SYNCED_DIRECTORIES:
        sync_file_system(workspace)
        return
    for folder in folders:
        try:
            directory = open_beneath(workspace, folder, _DIRECTORY_FLAGS, follow_symlinks=True)
        except OSError:  # code removed or replaced it just now
            continue
        with closing_fd(directory):
            os.fsync(directory)
