"""Copies trees that hostile code made and may be changing, by descriptors and without recursion.

Everything here blocks. Regular files are cloned where the file system can, their holes stay holes;
hard links stay names of one file; symbolic links are copied as they are and never followed; pipes,
sockets and devices are left out.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress

from era_kernels.errors import Conflict, TooLarge
from era_kernels.safe_fs.openat import open_beneath, open_directory, open_regular
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.safe_fs.usage import MIN_ENTRY_BYTES

MAX_ENTRIES = 500_000  # entries of a tree; a larger one is refused, never copied in part
MAX_TEXT_BYTES = 64 * 1024 * 1024  # memory for names and paths that a copy keeps
# Files and directories up to which each is synced, instead of the whole file system.
MAX_SYNCED_ENTRIES = 32
CHUNK_BYTES = 16 * 1024 * 1024  # bytes between two checks for cancellation

_BLOCK = 512  # bytes in which `st_blocks` counts
FICLONE = 0x40049409  # ioctl_ficlone(2)

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Errors at a name whose file is not, or no longer, what a listing showed: code changed it.
_CHANGED_ERRNOS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EINVAL, errno.ENXIO}
    | {errno.ESTALE}
)

_libc = ctypes.CDLL(None, use_errno=True)


class CopyCancelled(Exception):
    """The copy was cancelled; a part of it exists."""


class TreeCopier:
    """Makes one copy of several directories."""

    def __init__(
        self,
        is_cancelled: Callable[[], bool],
        max_bytes: int,
        *,
        copy_attributes: Callable[[int, int], object],
    ) -> None:
        """Stores the callables, and how many bytes the copy may take.

        `is_cancelled` is asked now and then, in the copying thread. `copy_attributes` is called
        with the descriptors of an original and of its copy, for every regular file.
        """
        self._is_cancelled = is_cancelled
        self._bytes_left = max_bytes
        self._copy_attributes = copy_attributes
        self._entries = 0
        self._text_left = MAX_TEXT_BYTES
        # Where the copy has a file of several names, by the file's inode, size and time.
        self._linked: dict[tuple[int, int, int], str] = {}
        self._can_clone = True  # until the file system says that it cannot
        self._can_copy_range = True

    def copy(self, source: int, target: int, name: str) -> None:
        """Copies the directory of that name in `source` into the empty one in `target`.

        Entries that vanish meanwhile are left out; nothing is copied where the directory is
        missing. Raises CopyCancelled, TooLarge, Conflict, OSError.
        """
        with (
            suppress(_SourceChanged),
            closing_fd(_open_source_directory(source, name)) as old,
            closing_fd(open_directory(target, name)) as new,
        ):
            self._linked.clear()
            self._text_left = MAX_TEXT_BYTES
            self._copy_tree(old, new)
            if self._entries <= MAX_SYNCED_ENTRIES:
                os.fsync(new)

    def sync(self, directory: int) -> None:
        """Makes what was copied below that directory durable.

        Few files were synced one by one before. For many, one syncfs(2) costs one commit of the
        file system's journal, where the files would need one each. Raises OSError.
        """
        if self._entries > MAX_SYNCED_ENTRIES and _libc.syncfs(directory):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.fsync(directory)

    # ------------------------------------------------------------ directories

    def _copy_tree(self, source: int, target: int) -> None:
        """Copies depth first: a directory gets its mode and times after everything in it."""
        # Folders and names in them, not whole paths, which code may make long.
        tasks: list[tuple[str, str, os.stat_result | None]] = [("", "", None)]
        while tasks:
            folder, name, directory_status = tasks.pop()
            if directory_status is not None:
                self._finish_directory(target, folder + name, directory_status)
                self._text_left += sys.getsizeof(name)
                continue
            path = f"{folder}{name}/" if name else ""
            for inner, status in self._copy_directory(source, target, path):
                tasks.append((path, inner, status))
                tasks.append((path, inner, None))

    def _copy_directory(
        self, source: int, target: int, path: str
    ) -> list[tuple[str, os.stat_result]]:
        """Copies the entries of one directory; returns its directories, made but empty."""
        folders: list[tuple[str, os.stat_result]] = []
        with (
            suppress(_SourceChanged),
            closing_fd(_open_source_directory(source, path or ".")) as old,
            closing_fd(open_directory(target, path or ".")) as new,
            os.scandir(old) as entries,
        ):
            for entry in entries:
                self._count_entry()
                with suppress(_SourceChanged, FileExistsError):  # renamed, so listed twice
                    status = self._copy_entry(old, new, entry, target, path)
                    if status is not None:
                        self._keep_text(entry.name)
                        folders.append((entry.name, status))
        return folders

    def _copy_entry(
        self, source: int, target: int, entry: os.DirEntry[str], root: int, folder: str
    ) -> os.stat_result | None:
        """Copies one entry of a folder below the copy's root.

        A directory is made empty, and its status returned.
        """
        if entry.is_dir(follow_symlinks=False):
            status = _stat_source(source, entry.name)
            os.mkdir(entry.name, 0o700, dir_fd=target)
            return status
        if entry.is_symlink():
            _copy_link(source, target, entry.name)
        elif entry.is_file(follow_symlinks=False):
            self._copy_file(source, target, entry.name, root, folder)
        return None

    def _finish_directory(self, target: int, path: str, status: os.stat_result) -> None:
        with closing_fd(open_directory(target, path)) as folder:
            if self._entries <= MAX_SYNCED_ENTRIES:
                os.fsync(folder)
            _copy_mode_and_times(folder, status)

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise TooLarge(f"The session has more than {MAX_ENTRIES} files and directories.")
        self._take(MIN_ENTRY_BYTES)
        self._check_cancelled()

    def _keep_text(self, text: str) -> None:
        self._text_left -= sys.getsizeof(text)
        if self._text_left < 0:
            raise TooLarge("The names of the session's files and directories are too long.")

    def _take(self, size: int) -> None:
        """Counts bytes of the copy. Raises Conflict where they are more than it may take."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise Conflict("Code in the session writes faster than its files can be copied.")

    def _check_cancelled(self) -> None:
        if self._is_cancelled():
            raise CopyCancelled

    # ------------------------------------------------------------ files

    def _copy_file(self, source: int, target: int, name: str, root: int, folder: str) -> None:
        with closing_fd(_open_source_file(source, name)) as old:
            status = os.fstat(old)
            if status.st_nlink > 1:
                identity = (status.st_ino, status.st_size, status.st_mtime_ns)
                copied = self._linked.get(identity)
                if copied is None:
                    self._linked[identity] = folder + name
                    self._keep_text(folder + name)
                elif _try_link(root, copied, target, name):
                    return
            with closing_fd(os.open(name, _CREATE_FLAGS, 0o600, dir_fd=target)) as new:
                if status.st_size and not self._try_clone(old, new):
                    self._copy_extents(old, new, status.st_size)
                self._take(os.fstat(new).st_blocks * _BLOCK)
                self._copy_attributes(old, new)
                _copy_mode_and_times(new, status)
                if self._entries <= MAX_SYNCED_ENTRIES:
                    os.fsync(new)

    def _try_clone(self, source: int, target: int) -> bool:
        """Makes both files share the same blocks, where the file system can."""
        if self._can_clone:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError:
                self._can_clone = False
        return self._can_clone

    def _copy_extents(self, source: int, target: int, size: int) -> None:
        """Copies the data and leaves the holes; ignores bytes that code adds beyond `size`."""
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(source, offset, os.SEEK_DATA)
                end = min(size, os.lseek(source, offset, os.SEEK_HOLE))
            except OSError as error:
                if error.errno != errno.ENXIO:  # there is only a hole from here on
                    raise
                break
            while offset < end:
                self._check_cancelled()
                moved = self._copy_range(source, target, offset, min(CHUNK_BYTES, end - offset))
                offset = offset + moved if moved else size  # 0: code has just truncated the file
        os.ftruncate(target, min(size, os.fstat(source).st_size))

    def _copy_range(self, source: int, target: int, offset: int, count: int) -> int:
        """Copies bytes at the same offset, never through Python; returns their number."""
        if self._can_copy_range:
            try:
                return os.copy_file_range(source, target, count, offset, offset)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._can_copy_range = False
        os.lseek(target, offset, os.SEEK_SET)
        return os.sendfile(target, source, offset, count)


class _SourceChanged(Exception):
    """Code has just removed or replaced the original."""


def _translate_error(error: OSError) -> Exception:
    """Returns the exception to raise in the copy for an error at the original."""
    if error.errno == errno.ENAMETOOLONG:
        return TooLarge("The session has directories that are nested too deep to be copied.")
    if error.errno == errno.EAGAIN:  # a lease: fcntl(2), F_SETLEASE
        return Conflict("Code in the session keeps a file for itself, so that it cannot be copied.")
    return _SourceChanged() if error.errno in _CHANGED_ERRNOS else error


def _open_source_directory(directory: int, path: str) -> int:
    try:
        return open_directory(directory, path)
    except OSError as error:
        raise _translate_error(error) from error


def _open_source_file(directory: int, name: str) -> int:
    """Opens a regular file to read, also one that its owner may not read.

    Raises _SourceChanged, TooLarge, Conflict, OSError.
    """
    try:
        try:
            return open_regular(directory, name)
        except PermissionError:
            return _open_unreadable_file(directory, name)
    except OSError as error:
        raise _translate_error(error) from error


def _open_unreadable_file(directory: int, name: str) -> int:
    with closing_fd(open_beneath(directory, name, os.O_PATH | os.O_NOFOLLOW)) as path_descriptor:
        path, mode = f"/proc/self/fd/{path_descriptor}", os.fstat(path_descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _SourceChanged
        os.chmod(path, 0o400)  # noqa: PTH101 - a descriptor, no path
        try:
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.chmod(path, stat.S_IMODE(mode))  # noqa: PTH101


def _try_link(root: int, path: str, target: int, name: str) -> bool:
    """Gives a file of the copy another name, where its file system can."""
    try:
        os.link(path, name, src_dir_fd=root, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _copy_link(source: int, target: int, name: str) -> None:
    status = _stat_source(source, name)
    try:
        text = os.readlink(name, dir_fd=source)
    except OSError as error:
        raise _translate_error(error) from error
    os.symlink(text, name, dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _stat_source(directory: int, name: str) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise _translate_error(error) from error


def _copy_mode_and_times(descriptor: int, status: os.stat_result) -> None:
    """Gives a copy the mode and times of the original, without its owner and set-id bits."""
    os.fchmod(descriptor, status.st_mode & 0o777)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
