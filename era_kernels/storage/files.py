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
from era_kernels.storage import content_types, uploads
from era_kernels.storage.beneath import (
    open_beneath,
    open_directory,
    open_regular,
    sync_file_system,
)
from era_kernels.storage.mirror import Stamp
from era_kernels.storage.owners import give, give_path
from era_kernels.storage.snapshot import MOST_ENTRIES, Change, time_of
from era_kernels.storage.threads import Lane, Threads
from era_kernels.storage.trees import make_directory, opened, walk
from era_kernels.storage.uploads import Upload

PIECE = 512 * 1024  # bytes that are read in one step
THREADS = 4  # for what is quick, and as many for uploads, which wait for the disk
MANY_FOLDERS = 16  # from which on it is faster to write all that the file system has to write
NAME_BYTES, PATH_BYTES = 255, 4095  # what Linux takes: see pathname(7) and NAME_MAX
_FOLDER = os.O_RDONLY | os.O_DIRECTORY

# What leads out of the workspace, or is no regular file, is not there for callers.
_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP, errno.EINVAL, errno.ENXIO}
    | {errno.ENAMETOOLONG}
)
# Modes, attributes, leases, mounts, and renames without a pause.
_SHUT = frozenset({errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY})


def checked_path(path: str) -> str:
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
        if len(os.fsencode(part)) > NAME_BYTES:
            raise InvalidPath(f"A file's name may have {NAME_BYTES} bytes.")
    if len(os.fsencode(path)) > PATH_BYTES:
        raise InvalidPath(f"A path may have {PATH_BYTES} bytes.")
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

    def __init__(self, descriptor: int, status: FileStatus, threads: Threads) -> None:
        self.status = status
        self._descriptor = descriptor
        self._lane = Lane(threads)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes of a range; fewer when code cuts the file meanwhile. Raises StorageFailed."""
        while start < stop:
            piece = await self._lane.run(
                os.pread, self._descriptor, min(PIECE, stop - start), start
            )
            if not piece:
                return
            start += len(piece)
            yield piece

    async def aclose(self) -> None:
        """A second call is fine. Nobody waits: what still reads is finished first."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._lane.start(os.close, descriptor)


class Files:
    """The files below the workspaces of `sessions`; `incoming` holds uploads on their way.

    Where code has shut a file or keeps it for itself, every call raises Conflict.
    """

    def __init__(self, sessions: Path, incoming: Path) -> None:
        self._sessions = sessions
        self._incoming = incoming
        self._threads = Threads("file", THREADS)
        self._uploads = Threads("upload", THREADS)

    async def sweep(self) -> None:
        """After a start: uploads that a former server did not finish are removed."""
        await self._threads.run(uploads.remove_all, self._incoming)

    async def open(self, directory: str, path: str) -> OpenFile:
        """Raises FileNotFound (also for what is no regular file), InvalidPath, SessionNotFound,
        StorageFailed.
        """
        checked_path(path)
        descriptor, status = await self._threads.run(self._open, directory, path)
        return OpenFile(descriptor, status, self._threads)

    async def find(self, directory: str, path: str) -> FileStatus | None:
        """The file as it is now, None where there is none. Raises as `open` does."""
        checked_path(path)
        return await self._threads.run(self._find, directory, path)

    async def used(self, directory: str) -> int:
        """Bytes of all files in a workspace, those that lists leave out too; takes its time."""
        return await self._uploads.run(self._used, directory)

    async def upload(self) -> Upload:
        """A new upload. Raises InsufficientStorage, StorageFailed."""
        temporary = self._new_temporary()
        descriptor = await self._uploads.run(uploads.created, temporary)
        return Upload(temporary, descriptor, self._uploads)

    async def put(self, directory: str, path: str, upload: Upload) -> Change:
        """Give an upload that is `finished` its place, whole; what was there is replaced.

        Durable when it returns. Missing directories are made. Raises InvalidPath, Conflict where
        a directory or a file is in the way, SessionNotFound, InsufficientStorage, StorageFailed.
        """
        checked_path(path)

        def move(temporary: Path, descriptor: int) -> Change:
            place, before = self._put(directory, path, temporary, durable=True)
            return Change(place, before, _stamp(os.fstat(descriptor)))

        return await upload.move(move)

    async def write(self, directory: str, path: str, data: bytes) -> None:
        """A file of a session that lasts as short as its run: not durable. Raises as `put` does."""
        checked_path(path)
        await self._threads.run(self._write, directory, path, data)

    async def delete(self, directory: str, path: str) -> Change:
        """Durable when it returns. A symbolic link is deleted itself.

        Raises FileNotFound, InvalidPath, Conflict for a directory, SessionNotFound, StorageFailed.
        """
        checked_path(path)
        return await self._threads.run(self._delete, directory, path)

    async def aclose(self) -> None:
        """Finish what was begun; a second call is fine."""
        for threads in (self._threads, self._uploads):
            await asyncio.to_thread(threads.close)

    def _new_temporary(self) -> Path:
        return self._incoming / secrets.token_hex(8)

    # ------------------------------------------------------------ in a thread

    def _open(self, directory: str, path: str) -> tuple[int, FileStatus]:
        with _refusing(_missing()), self._workspace(directory) as workspace:
            descriptor = open_regular(workspace, path, links=True)
            try:
                found = os.fstat(descriptor)
                _check_owner(workspace, found)
                return descriptor, _status(found, content_types.of(descriptor, path))
            except BaseException:
                os.close(descriptor)
                raise

    def _find(self, directory: str, path: str) -> FileStatus | None:
        with suppress(FileNotFound), _refusing(_missing()), self._workspace(directory) as workspace:
            with opened(open_beneath(workspace, path, os.O_PATH, links=True)) as place:
                found = os.fstat(place)
            return _status(found) if stat.S_ISREG(found.st_mode) else None
        return None

    def _used(self, directory: str) -> int:
        with _refusing(_missing()), self._workspace(directory) as workspace:
            found = walk(workspace, lambda folder, name: False, MOST_ENTRIES)
            return sum(status.st_size for _, status in found)

    def _delete(self, directory: str, path: str) -> Change:
        folder, _, name = path.rpartition("/")
        with (
            _refusing(_missing()),
            self._workspace(directory) as workspace,
            opened(open_beneath(workspace, folder or ".", _FOLDER, links=True)) as parent,
        ):
            place, before = _place(workspace, parent, path), _stamp_at(parent, name)
            os.unlink(name, dir_fd=parent)
            os.fsync(parent)
        return Change(place, before, None)

    def _put(
        self, directory: str, path: str, temporary: Path, *, durable: bool
    ) -> tuple[str, Stamp | None]:
        """Rename it into its place: the path without links, and the stamp of what was there."""
        folder, _, name = path.rpartition("/")
        with (
            _refusing(_in_the_way()),
            self._workspace(directory, make=True) as workspace,
            opened(_made_folder(workspace, folder, durable=durable)) as parent,
        ):
            place, before = _place(workspace, parent, path), _stamp_at(parent, name)
            give_path(temporary, workspace)
            os.rename(temporary, name, dst_dir_fd=parent)
            if durable:
                os.fsync(parent)
        return place, before

    def _write(self, directory: str, path: str, data: bytes) -> None:
        temporary = self._new_temporary()
        try:
            with opened(uploads.created(temporary)) as descriptor:
                uploads.write_all(descriptor, data)
            self._put(directory, path, temporary, durable=False)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _workspace(self, directory: str, *, make: bool = False) -> Iterator[int]:
        """`make`: code may have removed it, or put something else in its place."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            home = os.open(self._sessions / directory, flags)
        except FileNotFoundError as error:
            raise SessionNotFound("The session is gone.") from error
        with opened(home):
            if make:
                make_directory(home, "workspace")
            with opened(open_directory(home, "workspace")) as workspace:
                yield workspace


@contextmanager
def _refusing(absent: EraError) -> Iterator[None]:
    """What hostile code can do to a path is told as a refusal: it is no failure of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise absent from error
        if error.errno in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            raise Conflict("This is a directory, and not a file.") from error
        if error.errno in _SHUT:
            raise Conflict(
                "Code in the session has shut this file or its directory, or keeps it for itself."
            ) from error
        raise


def _missing() -> FileNotFound:
    return FileNotFound("There is no such file in this session.")


def _in_the_way() -> Conflict:
    return Conflict("Something that is no directory is in the way of the file.")


def _check_owner(workspace: int, found: os.stat_result) -> None:
    """A hard link to somebody else's file would show what the session's user may not read."""
    if found.st_nlink > 1 and found.st_uid != os.fstat(workspace).st_uid:
        raise _missing()


def _status(found: os.stat_result, content_type: str = "") -> FileStatus:
    # The time of the last change of the inode is in it because code cannot set that one.
    mark = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return FileStatus(
        size=found.st_size,
        modified_at=time_of(found.st_mtime_ns).replace(microsecond=0),
        etag='"' + "-".join(f"{number:x}" for number in mark) + '"',
        content_type=content_type,
    )


def _place(workspace: int, parent: int, path: str) -> str:
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


def _stamp_at(parent: int, name: str) -> Stamp | None:
    """The stamp of a regular file; None for all else."""
    with suppress(OSError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return _stamp(status)
    return None


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _made_folder(workspace: int, folder: str, *, durable: bool) -> int:
    """A directory below the workspace, made with its parents where missing. Raises OSError."""
    with suppress(FileNotFoundError):
        return open_beneath(workspace, folder or ".", _FOLDER, links=True)
    above, grown = os.dup(workspace), list[str]()
    parts = folder.split("/")
    for depth, name in enumerate(parts):
        # From the workspace each time: a link may lead elsewhere below it.
        path = "/".join(parts[: depth + 1])
        with opened(above):
            try:
                above = open_beneath(workspace, path, _FOLDER, links=True)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
                grown.append("/".join(parts[:depth]) or ".")
                above = open_beneath(workspace, path, _FOLDER, links=True)
                give(above, workspace)
    try:
        _sync_all(workspace, grown if durable else [])
    except BaseException:
        os.close(above)
        raise
    return above


def _sync_all(workspace: int, folders: list[str]) -> None:
    """What was made in them is safe on disk."""
    if len(folders) > MANY_FOLDERS:
        sync_file_system(workspace)
        return
    for folder in folders:
        try:
            directory = open_beneath(workspace, folder, _FOLDER, links=True)
        except OSError:  # code removed or replaced it just now
            continue
        with opened(directory):
            os.fsync(directory)
