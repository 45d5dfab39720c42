"""Keeps the server's secret: random bytes in a file of their own, made once."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.storage.error_mapping import full_disk_error

SECRET_BYTES = 32


def load_or_create_secret(path: Path) -> bytes:
    """Returns the secret in a file, which is made where missing (blocking).

    Raises StartError, also where the file holds no secret: what callers were told by the one that
    was there would not hold any more, which the operator is to decide.
    """
    try:
        found = _read(path)
        if found is None:
            return _create(path)
        if len(found) == SECRET_BYTES:
            return found
        raise StartError(
            f"The file {path} is damaged: it holds {_count_text(len(found))} in place of a secret "
            f"of {SECRET_BYTES}. Put it back from a backup, or remove it: a new one is made then, "
            "and requests with an Idempotency-Key from before are not known again."
        )
    except OSError as error:
        raise full_disk_error(path.parent, error) or StartError(
            f"The file {path} cannot be used ({error.strerror})."
        ) from error


def _read(path: Path) -> bytes | None:
    """Returns what is in the file, up to one byte more than a secret has; None for no file.

    Raises OSError, also for anything but a regular file, which might never end or never answer.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(SECRET_BYTES + 1)


def _count_text(size: int) -> str:
    return f"more than {SECRET_BYTES} bytes" if size > SECRET_BYTES else f"{size} bytes"


def _create(path: Path) -> bytes:
    """Creates the file durably and as a whole, or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    secret = secrets.token_bytes(SECRET_BYTES)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return secret
