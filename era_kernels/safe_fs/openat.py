"""Paths inside directories that hostile code writes to: opened by descriptors, never followed out.

Everything in a workspace is opened here, by openat2(2), which Linux has since 5.6.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
MAX_ATTEMPTS = 16  # of an opening while somebody renames directories on its way

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def open_beneath(
    directory: int, path: str, flags: int, mode: int = 0, *, follow_symlinks: bool = False
) -> int:
    """A descriptor of what lies below a directory; it never blocks and is not inherited.

    `follow_symlinks` follows symbolic links, as long as they stay below. Raises OSError: EXDEV for what
    leads out or lies on another mount (a FUSE mount answers when its owner likes), ELOOP for a
    link that is not followed, EAGAIN where somebody renames without a pause.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    resolve |= 0 if follow_symlinks else RESOLVE_NO_SYMLINKS
    flags |= os.O_CLOEXEC | (0 if flags & os.O_PATH else os.O_NONBLOCK)
    how = _OpenHow(flags, mode, resolve)
    name = ctypes.c_char_p(os.fsencode(path))
    for _ in range(MAX_ATTEMPTS):
        descriptor = _libc.syscall(
            SYS_OPENAT2, directory, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if descriptor >= 0:
            return int(descriptor)
        error_number = ctypes.get_errno()
        if error_number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(error_number, os.strerror(error_number), path)


def open_directory(directory: int, path: str) -> int:
    """A directory that can be listed, also when code shut its owner out. Raises OSError."""
    try:
        return open_beneath(directory, path, _DIRECTORY_FLAGS)
    except PermissionError:
        grant_owner_access(directory, path)
        return open_beneath(directory, path, _DIRECTORY_FLAGS)


def open_regular(directory: int, path: str, *, follow_symlinks: bool = False) -> int:
    """A regular file to read. Nothing else is ever opened: no FIFO, no device.

    Raises OSError: EINVAL when it is no regular file, and what `open_beneath` does.
    """
    flags = os.O_PATH if follow_symlinks else os.O_PATH | os.O_NOFOLLOW
    path_descriptor = open_beneath(directory, path, flags, follow_symlinks=follow_symlinks)
    try:
        if not stat.S_ISREG(os.fstat(path_descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        # The very file that was looked at, whatever has its name by now.
        return os.open(
            f"/proc/self/fd/{path_descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    finally:
        os.close(path_descriptor)


def sync_file_system(descriptor: int) -> None:
    """Write all that the file system of a descriptor has to write: syncfs(2). Raises OSError."""
    if _libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def grant_owner_access(directory: int, path: str) -> None:
    """Give the owner of a directory all rights to it. Raises OSError, also for what is none."""
    path_descriptor = open_beneath(directory, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.chmod(f"/proc/self/fd/{path_descriptor}", 0o700)  # noqa: PTH101 - a descriptor, no path
    finally:
        os.close(path_descriptor)
