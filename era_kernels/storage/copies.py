"""Copies of trees that hostile code made and may be changing: by descriptors, without recursion.

Everything here blocks. Regular files are cloned where the file system can, their holes stay holes;
symbolic links are copied as they are and never followed; pipes, sockets and devices are left out.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from era_kernels.errors import TooLarge
from era_kernels.storage import content_types
from era_kernels.storage.beneath import open_beneath, open_directory, open_regular
from era_kernels.storage.trees import opened

MOST_ENTRIES = 500_000  # of a tree that is copied; what has more is refused, never copied in part
FEW = 32  # files and directories up to which each is synced, instead of the whole file system
PIECE = 16 * 1024 * 1024  # bytes between two looks at whether somebody still wants the copy

FICLONE = 0x40049409  # ioctl_ficlone(2)

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# What a name shows that is not, or not any more, what a listing said: code was faster.
_GONE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EINVAL, errno.ENXIO}
    | {errno.ESTALE}
)

_libc = ctypes.CDLL(None, use_errno=True)


class Stopped(Exception):
    """Nobody wants the copy any more; a part of it is there."""


class Copies:
    """One copy of several directories. `stopped` is asked now and then, in the copying thread."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._entries = 0
        self._clones = True  # until the file system says that it cannot
        self._ranges = True

    def copy(self, source: int, target: int, name: str) -> None:
        """Copy the directory of that name in `source` into the empty one in `target`.

        What vanishes meanwhile is left out; so is all of it where there is no such directory.
        Raises Stopped, TooLarge, OSError.
        """
        with (
            suppress(_Gone),
            opened(_opened_source(source, name)) as old,
            opened(open_directory(target, name)) as new,
        ):
            self._copy_tree(old, new)
            if self._entries <= FEW:
                os.fsync(new)

    def settle(self, home: int) -> None:
        """What was copied below that directory survives a power cut from now on.

        Few files were synced one by one. For many, one syncfs(2) costs one commit of the file
        system's journal, where they would need one each. Raises OSError.
        """
        if self._entries > FEW and _libc.syncfs(home):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.fsync(home)

    # ------------------------------------------------------------ directories

    def _copy_tree(self, source: int, target: int) -> None:
        """Depth first: a directory gets its mode and time when all in it is there."""
        tasks: list[tuple[str, os.stat_result | None]] = [("", None)]
        while tasks:
            path, done = tasks.pop()
            if done is not None:
                self._finish_folder(target, path, done)
                continue
            for name, status in self._copy_folder(source, target, path):
                tasks.append((path + name, status))
                tasks.append((f"{path}{name}/", None))

    def _copy_folder(self, source: int, target: int, path: str) -> list[tuple[str, os.stat_result]]:
        """Copy what is in one directory; its directories are made, and still empty."""
        folders: list[tuple[str, os.stat_result]] = []
        with (
            suppress(_Gone),
            opened(_opened_source(source, path or ".")) as old,
            opened(open_directory(target, path or ".")) as new,
            os.scandir(old) as entries,
        ):
            for entry in entries:
                self._count()
                with suppress(_Gone, FileExistsError):  # renamed meanwhile, and seen twice
                    status = self._copy_entry(old, new, entry)
                    if status is not None:
                        folders.append((entry.name, status))
        return folders

    def _copy_entry(
        self, source: int, target: int, entry: os.DirEntry[str]
    ) -> os.stat_result | None:
        """The status of a directory, which is made; all else is copied."""
        if entry.is_dir(follow_symlinks=False):
            status = _status(source, entry.name)
            os.mkdir(entry.name, 0o700, dir_fd=target)
            return status
        if entry.is_symlink():
            _copy_link(source, target, entry.name)
        elif entry.is_file(follow_symlinks=False):
            self._copy_file(source, target, entry.name)
        return None

    def _finish_folder(self, target: int, path: str, status: os.stat_result) -> None:
        with opened(open_directory(target, path)) as folder:
            if self._entries <= FEW:
                os.fsync(folder)
            _take_after(folder, status)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise TooLarge(f"The session has more than {MOST_ENTRIES} files and directories.")
        self._look()

    def _look(self) -> None:
        if self._stopped():
            raise Stopped

    # ------------------------------------------------------------ files

    def _copy_file(self, source: int, target: int, name: str) -> None:
        with opened(_opened_file(source, name)) as old:
            status = os.fstat(old)
            with opened(os.open(name, _NEW, 0o600, dir_fd=target)) as new:
                if status.st_size and not self._cloned(old, new):
                    self._copy_extents(old, new, status.st_size)
                content_types.copy(old, new)
                _take_after(new, status)
                if self._entries <= FEW:
                    os.fsync(new)

    def _cloned(self, source: int, target: int) -> bool:
        """Let both share the same blocks, where the file system can."""
        if self._clones:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError:
                self._clones = False
        return self._clones

    def _copy_extents(self, source: int, target: int, size: int) -> None:
        """Copy the data and leave the holes; what code writes behind `size` meanwhile is not it."""
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
                end = min(size, os.lseek(source, at, os.SEEK_HOLE))
            except OSError as error:
                if error.errno != errno.ENXIO:  # there is only a hole from here on
                    raise
                break
            while at < end:
                self._look()
                moved = self._move(source, target, at, min(PIECE, end - at))
                at = at + moved if moved else size  # 0: code has just cut it short
        os.ftruncate(target, min(size, os.fstat(source).st_size))

    def _move(self, source: int, target: int, at: int, count: int) -> int:
        """Bytes that went from one file to the other, at the same place; never through Python."""
        if self._ranges:
            try:
                return os.copy_file_range(source, target, count, at, at)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._ranges = False
        os.lseek(target, at, os.SEEK_SET)
        return os.sendfile(target, source, at, count)


class _Gone(Exception):
    """Code removed or replaced it just now."""


def _told(error: OSError) -> Exception:
    """What an error at the original means for the copy."""
    if error.errno == errno.ENAMETOOLONG:
        return TooLarge("The session has directories that are nested too deep to be copied.")
    return _Gone() if error.errno in _GONE else error


def _opened_source(directory: int, path: str) -> int:
    try:
        return open_directory(directory, path)
    except OSError as error:
        raise _told(error) from error


def _opened_file(directory: int, name: str) -> int:
    """A regular file to read, also one that its owner may not read. Raises _Gone, OSError."""
    try:
        try:
            return open_regular(directory, name)
        except PermissionError:
            return _opened_unreadable(directory, name)
    except OSError as error:
        raise _told(error) from error


def _opened_unreadable(directory: int, name: str) -> int:
    with opened(open_beneath(directory, name, os.O_PATH | os.O_NOFOLLOW)) as place:
        path, mode = f"/proc/self/fd/{place}", os.fstat(place).st_mode
        if not stat.S_ISREG(mode):
            raise _Gone
        os.chmod(path, 0o400)  # noqa: PTH101 - a descriptor, no path
        try:
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.chmod(path, stat.S_IMODE(mode))  # noqa: PTH101


def _copy_link(source: int, target: int, name: str) -> None:
    status = _status(source, name)
    try:
        text = os.readlink(name, dir_fd=source)
    except OSError as error:
        raise _told(error) from error
    os.symlink(text, name, dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _status(directory: int, name: str) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise _told(error) from error


def _take_after(descriptor: int, status: os.stat_result) -> None:
    """Mode and times of the original; its owner and set-id bits are nobody's business."""
    os.fchmod(descriptor, status.st_mode & 0o777)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
