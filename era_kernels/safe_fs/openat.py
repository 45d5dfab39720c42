"""Opens files in directories that hostile code writes to, and never follows a path out of them.

Everything in a workspace is opened here, by descriptors and openat2(2), which Linux has since 5.6.
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
MAX_ATTEMPTS = 16  # attempts to open a path on which directories are being renamed

# The process or its host has too little left: that says nothing of the file, and may pass.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def raise_shortage(error: OSError) -> None:
    """Raises the error again where it is one of SHORTAGES, which must not pass for a finding."""
    if error.errno in SHORTAGES:
        raise error


def open_beneath(
    directory: int, path: str, flags: int, mode: int = 0, *, follow_symlinks: bool = False
) -> int:
    """Opens a path below a directory; the descriptor never blocks and is not inherited.

    `follow_symlinks` follows symbolic links, as long as they stay below the directory. Raises
    OSError: EXDEV for a path that leads out or to another mount (a FUSE mount answers when its
    owner likes), ELOOP for a link that is not followed, EAGAIN where directories on the path are
    renamed without a pause.
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
    """Opens a directory to be listed, also if code took its owner's rights. Raises OSError."""
    try:
        return open_beneath(directory, path, _DIRECTORY_FLAGS)
    except PermissionError:
        grant_owner_access(directory, path)
        return open_beneath(directory, path, _DIRECTORY_FLAGS)


def open_regular(directory: int, path: str, *, follow_symlinks: bool = False) -> int:
    """Opens a regular file to read; never opens anything else, such as a FIFO or a device.

    Raises OSError: EINVAL for what is no regular file, and whatever `open_beneath` raises.
    """
    flags = os.O_PATH if follow_symlinks else os.O_PATH | os.O_NOFOLLOW
    path_descriptor = open_beneath(directory, path, flags, follow_symlinks=follow_symlinks)
    try:
        if not stat.S_ISREG(os.fstat(path_descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        # This opens the file that was checked, whichever file has its name by now.
        return os.open(
            f"/proc/self/fd/{path_descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    finally:
        os.close(path_descriptor)


def sync_file_system(descriptor: int) -> None:
    """Writes all pending data of a descriptor's file system: syncfs(2). Raises OSError."""
    if _libc.syncfs(descriptor):
        error_number = ctypes.get_errno()
        raise OSError(error_number, os.strerror(error_number))


def grant_owner_access(directory: int, path: str) -> None:
    """Gives the owner of a directory all rights to it. Raises OSError, also for other files."""
    path_descriptor = open_beneath(directory, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.chmod(f"/proc/self/fd/{path_descriptor}", 0o700)  # noqa: PTH101 - a descriptor, no path
    finally:
        os.close(path_descriptor)
