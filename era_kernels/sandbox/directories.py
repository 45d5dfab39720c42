"""Private runtime directories: short paths for sockets, gone without a trace at the end."""

from __future__ import annotations

import logging
import secrets
import shutil
import stat
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.models import Place

log = logging.getLogger(__name__)

ZYGOTE = "zygote"  # the home of the zygote, for what its imports cache
TRIAL = "trial"  # the place of the sandbox that tells whether walls stand
LONGEST = 107  # bytes of a unix socket's path, see unix(7)
_FAILURES = (OSError, RecursionError)  # directories may be nested deeper than Python goes
_SOCKET = "kernel-00000"  # room for the longest socket name that kernels need


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

    Never follows a symbolic link. Nothing may run in it any more. What still cannot be removed
    is logged, since no caller could do more about it.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except _FAILURES:
        try:
            _open_up(path)
            shutil.rmtree(path)
        except _FAILURES as error:
            log.warning("a runtime directory remains", extra={"path": str(path), "error": error})


def _open_up(directory: Path) -> None:
    """Let the owner into every directory below, whatever modes were set."""
    directory.chmod(0o700)
    for child in directory.iterdir():
        if stat.S_ISDIR(child.lstat().st_mode):
            _open_up(child)
