"""Makes and removes private runtime directories, with paths short enough for sockets."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.models import SessionPaths
from era_kernels.safe_fs.trash import PATIENCE, STEP, Trash, remove_directory
from era_kernels.safe_fs.tree import closing_fd

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

    Directories of killed servers are removed, with all that code left in them; a lock tells them
    from directories of running servers. What takes longer than a moment is removed in a thread, and
    what is left at the end by the next server. Raises OSError.
    """
    trash = Trash()
    _remove_stale(Path(tempfile.gettempdir()), trash)
    path, lock = _create_locked()
    try:
        yield path
    finally:
        trash.close()
        try:
            is_removed = remove_directory(path, PATIENCE)
        except OSError:  # no descriptor is left
            is_removed = False
        if not is_removed:
            log.warning("the next start removes a directory", extra={"path": str(path)})
        os.close(lock)


def _remove_stale(parent: Path, trash: Trash) -> None:
    limit = time.monotonic() + PATIENCE
    for path in parent.glob(f"{PREFIX}*/"):
        remaining = max(0.0, limit - time.monotonic())
        if not _remove_if_stale(path, remaining):
            trash.add(partial(_remove_if_stale, path, STEP))


def _remove_if_stale(path: Path, seconds: float) -> bool:
    """Removes what a killed server left, for so many seconds; returns False if more is left."""
    with suppress(OSError):  # another user's, locked, or removed meanwhile
        lock = os.open(path, _DIRECTORY_FLAGS)
        with closing_fd(lock):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(lock).st_uid != os.geteuid() or remove_directory(path, seconds)
    return True


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
