"""Private runtime directories: short paths for sockets, gone without a trace at the end."""

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

ZYGOTE_DIRECTORY = "zygote"  # the home of the zygote, for what its imports cache
PROBE_DIRECTORY = "trial"  # the place of the sandbox that tells whether walls stand
PREFIX = "era-run-"  # of the directories that `own` makes
MAX_SOCKET_PATH = 107  # bytes of a unix socket's path, see unix(7)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_SOCKET_NAME = "kernel-00000"  # room for the longest socket name that kernels need


@contextmanager
def private_runtime_dir() -> Iterator[Path]:
    """A short private directory for `prepare`, gone at the end (blocking).

    Those of servers that were killed go first, with all that code left in them; a lock tells them
    from those of neighbours. Raises OSError.
    """
    _remove_stale(Path(tempfile.gettempdir()))
    path, lock = _create_locked()
    try:
        yield path
    finally:
        remove_tree(path)
        os.close(lock)


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*/"):
        with suppress(OSError):  # somebody else's, locked, or gone by now
            lock = os.open(path, _DIRECTORY_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    remove_tree(path)
            finally:
                os.close(lock)


def _create_locked() -> tuple[Path, int]:
    """A new one and the descriptor of its lock; before it is locked it may be swept."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(path, _DIRECTORY_FLAGS)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def create_base(base: Path) -> Path:
    """The directory that holds all others (blocking), made where missing.

    Raises StartError when it cannot be made or is too long for sockets in its directories.
    """
    base = base.absolute()
    longest = len(str(new_path(base) / _LONGEST_SOCKET_NAME).encode())
    if longest > MAX_SOCKET_PATH:
        raise StartError(
            f"The runtime directory {base} is too long for sockets ({longest} of {MAX_SOCKET_PATH} bytes): "
            "choose a shorter one."
        )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        (base / ZYGOTE_DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"The runtime directory {base} cannot be made: {error}") from error
    return base


def create_session_dirs(paths: SessionPaths) -> None:
    """Make a place's directories (blocking). Raises OSError."""
    for directory in (paths.workspace, paths.packages, paths.cache):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def new_path(base: Path) -> Path:
    """A directory under `base` that is not there yet."""
    return base / secrets.token_hex(6)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it (blocking), also what code made unwritable.

    Goes by descriptors, follows no symbolic link, and no nesting is too deep. What still cannot
    be removed is logged, since no caller could do more about it.
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
    """Step down as long as there is a folder, and up when one is empty. Raises OSError."""
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
    """Remove what is no folder; a folder that is left, or None."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=folder)
    return None


def _open_accessible(name: str, parent: int) -> int:
    """A folder that its owner may read and write, whatever its mode was."""
    path_fd = os.open(name, os.O_PATH | _DIRECTORY_FLAGS, dir_fd=parent)
    try:
        fd_path = f"/proc/self/fd/{path_fd}"
        os.chmod(fd_path, 0o700)  # noqa: PTH101 - a descriptor, no path
        return os.open(fd_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(path_fd)
