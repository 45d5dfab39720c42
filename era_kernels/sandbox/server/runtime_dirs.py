"""Makes and removes private runtime directories, with paths short enough for sockets."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.models import SessionPaths

log = logging.getLogger(__name__)

ZYGOTE_DIRECTORY = "zygote"  # the HOME of the zygote, for the caches of its imports
PROBE_DIRECTORY = "probe"  # of the sandbox that probes the tiers
PREFIX = "era-run-"  # of the directories that `private_runtime_dir` makes
MAX_SOCKET_PATH = 107  # bytes of a unix socket's path, see unix(7)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_SOCKET_NAME = "kernel-00000"  # room for the longest socket name that kernels need


@contextmanager
def private_runtime_dir() -> Iterator[Path]:
    """Makes a short private directory for `create_base`, and removes it at the end (blocking).

    Directories of killed servers are removed first, with all that code left in them; a lock tells
    them from directories of running servers. Raises OSError.
    """
    _remove_stale(Path(tempfile.gettempdir()))
    path, lock = _create_locked()
    try:
        yield path
    finally:
        remove_runtime_dir(path)
        os.close(lock)


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*/"):
        with suppress(OSError):  # another user's, locked, or removed meanwhile
            lock = os.open(path, _DIRECTORY_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    remove_runtime_dir(path)
            finally:
                os.close(lock)


def _create_locked() -> tuple[Path, int]:
    """Makes a directory and its lock; another server may remove it before it is locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(path, _DIRECTORY_FLAGS)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def create_base(base: Path) -> Path:
    """Returns the directory that holds all others (blocking), made where missing.

    Raises StartError when it cannot be made or is too long for sockets in its directories.
    """
    base = base.absolute()
    longest = len(str(new_path(base) / _LONGEST_SOCKET_NAME).encode())
    if longest > MAX_SOCKET_PATH:
        raise StartError(
            f"The runtime directory {base} is too long for sockets ({longest} of "
            f"{MAX_SOCKET_PATH} bytes): choose a shorter one."
        )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        (base / ZYGOTE_DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"The runtime directory {base} cannot be made: {error}") from error
    return base


def create_session_dirs(paths: SessionPaths) -> None:
    """Makes a session's directories (blocking). Raises OSError."""
    for directory in (paths.workspace, paths.packages, paths.cache):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def new_path(base: Path) -> Path:
    """Returns a path under `base` that does not exist yet."""
    return base / secrets.token_hex(6)


def remove_runtime_dir(path: Path) -> None:
    """Removes a directory and all in it (blocking), also what code made unwritable.

    Uses descriptors, follows no symbolic link, and works at any depth. A directory that still
    cannot be removed is logged, since no caller could do more about it.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove_below(path.name, parent)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("a runtime directory remains", extra={"path": str(path), "error": error})
    finally:
        os.close(parent)


def _remove_below(name: str, parent: int) -> None:
    """Removes a folder from its deepest folders up, with two descriptors. Raises OSError."""
    names = [name]
    folder = _open_accessible(name, parent)
    try:
        while names:
            below = _unlink_files(folder)
            if below is not None:
                folder, previous = _open_accessible(below, folder), folder
                names.append(below)
            else:
                folder, previous = os.open("..", _DIRECTORY_FLAGS, dir_fd=folder), folder
                os.rmdir(names.pop(), dir_fd=folder)
            os.close(previous)
    finally:
        os.close(folder)


def _unlink_files(folder: int) -> str | None:
    """Removes all entries until a folder is met; returns its name, or None when empty."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=folder)
    return None


def _open_accessible(name: str, parent: int) -> int:
    """Opens a folder after giving its owner all rights to it."""
    path_fd = os.open(name, os.O_PATH | _DIRECTORY_FLAGS, dir_fd=parent)
    try:
        fd_path = f"/proc/self/fd/{path_fd}"
        os.chmod(fd_path, 0o700)  # noqa: PTH101 - a descriptor, no path
        return os.open(fd_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(path_fd)
