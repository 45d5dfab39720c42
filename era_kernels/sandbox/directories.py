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
from era_kernels.models import Place

log = logging.getLogger(__name__)

ZYGOTE = "zygote"  # the home of the zygote, for what its imports cache
TRIAL = "trial"  # the place of the sandbox that tells whether walls stand
PREFIX = "era-run-"  # of the directories that `own` makes
LONGEST = 107  # bytes of a unix socket's path, see unix(7)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SOCKET = "kernel-00000"  # room for the longest socket name that kernels need


@contextmanager
def own() -> Iterator[Path]:
    """A short private directory for `prepare`, gone at the end (blocking).

    Those of servers that were killed go first, with all that code left in them; a lock tells them
    from those of neighbours. Raises OSError.
    """
    _sweep(Path(tempfile.gettempdir()))
    path, lock = _locked()
    try:
        yield path
    finally:
        remove(path)
        os.close(lock)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*/"):
        with suppress(OSError):  # somebody else's, locked, or gone by now
            lock = os.open(path, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    remove(path)
            finally:
                os.close(lock)


def _locked() -> tuple[Path, int]:
    """A new one and the descriptor of its lock; before it is locked it may be swept."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(path, _FOLDER)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def prepare(base: Path) -> Path:
    """The directory that holds all others (blocking), made where missing.

    Raises StartError when it cannot be made or is too long for sockets in its directories.
    """
    base = base.absolute()
    longest = len(str(fresh(base) / _SOCKET).encode())
    if longest > LONGEST:
        raise StartError(
            f"The runtime directory {base} is too long for sockets ({longest} of {LONGEST} bytes): "
            "choose a shorter one."
        )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        (base / ZYGOTE).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"The runtime directory {base} cannot be made: {error}") from error
    return base


def make(place: Place) -> None:
    """Make a place's directories (blocking). Raises OSError."""
    for directory in (place.workspace, place.packages, place.cache):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def fresh(base: Path) -> Path:
    """A directory under `base` that is not there yet."""
    return base / secrets.token_hex(6)


def remove(path: Path) -> None:
    """Remove a directory and all in it (blocking), also what code made unwritable.

    Goes by descriptors, follows no symbolic link, and no nesting is too deep. What still cannot
    be removed is logged, since no caller could do more about it.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove(path.name, parent)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("a runtime directory remains", extra={"path": str(path), "error": error})
    finally:
        os.close(parent)


def _remove(name: str, parent: int) -> None:
    """Step down as long as there is a folder, and up when one is empty. Raises OSError."""
    names = [name]
    folder = _entered(name, parent)
    try:
        while names:
            below = _emptied(folder)
            if below is not None:
                folder, left = _entered(below, folder), folder
                names.append(below)
            else:
                folder, left = os.open("..", _FOLDER, dir_fd=folder), folder
                os.rmdir(names.pop(), dir_fd=folder)
            os.close(left)
    finally:
        os.close(folder)


def _emptied(folder: int) -> str | None:
    """Remove what is no folder; a folder that is left, or None."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=folder)
    return None


def _entered(name: str, parent: int) -> int:
    """A folder that its owner may read and write, whatever its mode was."""
    place = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        own = f"/proc/self/fd/{place}"
        os.chmod(own, 0o700)
        return os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)
