"""Reads, puts and deletes a session's files by path, while hostile code may change them."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from era_kernels.concurrency.single_flight import SingleFlights
from era_kernels.errors import Conflict, EraError, FileNotFound, InvalidPath, SessionNotFound
from era_kernels.safe_fs.openat import (
    open_beneath,
    open_directory,
    open_regular,
    raise_shortage,
    sync_file_system,
)
from era_kernels.safe_fs.tree import closing_fd, ensure_directory, walk
from era_kernels.storage import content_types, uploads
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.file_listing import MAX_ENTRIES, FileChange, time_from_mtime
from era_kernels.storage.file_ownership import chown_like, chown_path_like
from era_kernels.storage.open_file import FileStatus, OpenFile
from era_kernels.storage.threads import StorageThreads
from era_kernels.storage.uploads import Upload
from era_kernels.storage.workspace_data_file import FileStamp
from era_kernels.storage.writing import write_all

MEASURE_THREADS = 2  # threads that walk through whole workspaces
THREADS = 4  # threads for quick work, and as many for uploads, which wait for the disk
MAX_SYNCED_DIRECTORIES = 16  # directories above which syncing the file system is faster
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095  # limits of Linux: see pathname(7), NAME_MAX
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY

# Errors of a path that leads out of the workspace or to no regular file: callers see no file.
_NOT_FOUND_ERRNOS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP, errno.EINVAL, errno.ENXIO}
    | {errno.ENAMETOOLONG}
)
# What is wrong with a path that should lead to a directory.
_DIRECTORY_RULES = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "is no directory",
    errno.EXDEV: "leads out of the session's directory",
    errno.ELOOP: "is a link that leads to no directory",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EACCES: "cannot be entered",
    errno.EAGAIN: "is being renamed",
}
# Errors from modes, attributes, leases, mounts, and renames without a pause.
_NO_ACCESS_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY})


def validate_path(path: str) -> str:
    """Returns the path of a file below a workspace, unchanged. Raises InvalidPath.

    Nothing is normalised: a path that would need it (`..`, `.`, an empty part) is refused.
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


class FileStore:
    """Reads, puts and deletes files in the workspaces below `sessions`.

    `incoming` holds unfinished uploads. Where code has denied access to a file or keeps the file
    for itself, every call raises Conflict.
    """

    def __init__(
        self, sessions: Path, incoming: Path, check_room: Callable[[], None] = always_room
    ) -> None:
        """`check_room` raises InsufficientStorage when nothing new is to be stored."""
        self._check_room = check_room
        self._sessions = sessions
        self._incoming = incoming
        self._threads = StorageThreads("file", THREADS)
        self._uploads = StorageThreads("upload", THREADS)
        self._measuring = StorageThreads("measure", MEASURE_THREADS)
        self._measurements = SingleFlights[str, int](
            lambda directory: self._measuring.run(self._used_bytes, directory)
        )

    async def remove_unfinished(self) -> None:
        """Removes, after a start, uploads that a former server did not finish."""
        await self._threads.run(uploads.remove_unfinished, self._incoming)

    async def open(self, directory: str, path: str) -> OpenFile:
        """Opens a file to read.

        Raises FileNotFound (also for what is no regular file), InvalidPath, Conflict for a
        directory, SessionNotFound, StorageFailed.
        """
        validate_path(path)
        descriptor, status = await self._threads.run(self._open, directory, path)
        return OpenFile(descriptor, status, self._threads)

    async def find(self, directory: str, path: str) -> FileStatus | None:
        """Returns the status of a file, None where there is no file. Raises as `open` does."""
        validate_path(path)
        return await self._threads.run(self._find, directory, path)

    async def used_bytes(self, directory: str) -> int:
        """Adds up the bytes of all files in a workspace, also of hidden files; may take long.

        This is done once for all who ask meanwhile.
        """
        return await self._measurements.run_fresh(directory)

    async def create_upload(self) -> Upload:
        """Creates an upload. Raises InsufficientStorage, StorageFailed."""
        self._check_room()
        temporary = self._new_temporary()
        descriptor = await self._uploads.run(uploads.create_temporary, temporary)
        return Upload(temporary, descriptor, self._uploads, check_room=self._check_room)

    async def put(self, directory: str, path: str, upload: Upload) -> FileChange:
        """Moves a finished upload to a path, as a whole, and replaces the file there.

        The file is durable when this returns. Missing directories are made. Raises InvalidPath,
        Conflict where a directory or a file is in the way, SessionNotFound, InsufficientStorage,
        StorageFailed.
        """
        validate_path(path)

        def move(temporary: Path, descriptor: int) -> FileChange:
            resolved, before = self._put(directory, path, temporary, durable=True)
            found = os.fstat(descriptor)
            return FileChange(resolved, before, _stamp_of(found), _status(found))

        return await upload.move(move)

    async def write(self, directory: str, path: str, data: bytes) -> None:
        """Writes a file of a one-shot session, not durably. Raises as `put` does."""
        validate_path(path)
        await self._threads.run(self._write, directory, path, data)

    async def delete(self, directory: str, path: str) -> FileChange:
        """Deletes a file, durably; of a symbolic link, the link itself.

        Raises FileNotFound, InvalidPath, Conflict for a directory, SessionNotFound, StorageFailed.
        """
        validate_path(path)
        return await self._threads.run(self._delete, directory, path)

    async def check_directory(self, directory: str, path: str) -> None:
        """Checks that a path, over links too, is a directory that does not lie outside a workspace.

        Raises InvalidPath, SessionNotFound, StorageFailed.
        """
        await self._threads.run(self._check_directory, directory, path)

    async def aclose(self) -> None:
        """Finishes all work that was begun; a second call is fine."""
        for threads in (self._threads, self._uploads, self._measuring):
            await asyncio.to_thread(threads.close)

    def _new_temporary(self) -> Path:
        return self._incoming / secrets.token_hex(8)

    # ------------------------------------------------------------ in a thread

    def _open(self, directory: str, path: str) -> tuple[int, FileStatus]:
        with _translate_errors(_file_not_found()), self._open_workspace(directory) as workspace:
            _check_no_directory(workspace, path)
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

    def _check_directory(self, directory: str, path: str) -> None:
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            with self._open_workspace(directory) as workspace:
                os.close(open_beneath(workspace, path, flags, follow_symlinks=True))
        except OSError as error:
            rule = _DIRECTORY_RULES.get(error.errno or 0)
            if rule is None:
                raise
            raise InvalidPath(
                f"The directory {rule}.",
                hint="Name a directory below the session's own, such as data/parts, or `.`.",
            ) from error

    def _used_bytes(self, directory: str) -> int:
        with _translate_errors(_file_not_found()), self._open_workspace(directory) as workspace:
            found = walk(workspace, lambda folder, name: False, MAX_ENTRIES)
            return sum(status.st_size for _, status in found)

    def _delete(self, directory: str, path: str) -> FileChange:
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
        return FileChange(resolved, before, None)

    def _put(
        self, directory: str, path: str, temporary: Path, *, durable: bool
    ) -> tuple[str, FileStamp | None]:
        """Renames a file to its path; returns the path without links, and the old file's stamp."""
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
                write_all(descriptor, data)
            self._put(directory, path, temporary, durable=False)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _open_workspace(self, directory: str, *, make: bool = False) -> Iterator[int]:
        """Opens a workspace; `make` replaces one that code removed or put a file in place of."""
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
    """Raises domain errors for what hostile code can do to a path, which is no disk failure."""
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


def _check_no_directory(workspace: int, path: str) -> None:
    with closing_fd(open_beneath(workspace, path, os.O_PATH, follow_symlinks=True)) as found:
        if stat.S_ISDIR(os.fstat(found).st_mode):
            raise OSError(errno.EISDIR, "a directory")


def _check_owner(workspace: int, found: os.stat_result) -> None:
    """Refuses hard links to other users' files, which the session's user may not read."""
    if found.st_nlink > 1 and found.st_uid != os.fstat(workspace).st_uid:
        raise _file_not_found()


def _status(found: os.stat_result, content_type: str = "") -> FileStatus:
    # The etag includes the ctime because code cannot set that time.
    identity = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return FileStatus(
        size=found.st_size,
        modified_at=time_from_mtime(found.st_mtime_ns).replace(microsecond=0),
        etag='"' + "-".join(f"{number:x}" for number in identity) + '"',
        content_type=content_type,
    )


def _resolve_path(workspace: int, parent: int, path: str) -> str:
    """Returns the path of a file as a walk finds it: without symbolic links."""
    name = path.rpartition("/")[2]
    with suppress(OSError):  # the path is longer than a path may be
        root, here = _path_of(workspace), _path_of(parent)
        if here == root:
            return name
        if here.startswith(f"{root}/"):
            return f"{here[len(root) + 1 :]}/{name}"
    return path


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a descriptor, no path


def _stamp_at(parent: int, name: str) -> FileStamp | None:
    """Returns the stamp of a regular file; None for everything else."""
    with suppress(OSError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return _stamp_of(status)
    return None


def _stamp_of(status: os.stat_result) -> FileStamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _ensure_parent(workspace: int, folder: str, *, durable: bool) -> int:
    """Opens a directory below the workspace; makes missing ones on its path. Raises OSError."""
    with suppress(FileNotFoundError):
        return open_beneath(workspace, folder or ".", _DIRECTORY_FLAGS, follow_symlinks=True)
    parent, changed = os.dup(workspace), list[str]()
    parts = folder.split("/")
    for depth, name in enumerate(parts):
        # Each part is opened from the workspace: a link may lead elsewhere in the workspace.
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
    """Makes the new entries of directories durable."""
    if len(folders) > MAX_SYNCED_DIRECTORIES:
        sync_file_system(workspace)
        return
    for folder in folders:
        try:
            directory = open_beneath(workspace, folder, _DIRECTORY_FLAGS, follow_symlinks=True)
        except OSError as error:  # code has just removed or replaced the directory
            raise_shortage(error)
            continue
        with closing_fd(directory):
            os.fsync(directory)
