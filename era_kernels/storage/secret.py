"""Keeps the server's secret: random bytes in a file of their own, made once."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.storage.error_mapping import full_disk_error

SECRET_BYTES = 32


def load_or_create_secret(path: Path) -> bytes:
    """Returns the secret in a file, which is made where missing (blocking). Raises StartError."""
    try:
        with suppress(FileNotFoundError):
            found = path.read_bytes()
            if len(found) == SECRET_BYTES:
                return found
        return _create(path)
    except OSError as error:
        raise full_disk_error(path.parent, error) or StartError(
            f"The file {path} cannot be used ({error.strerror})."
        ) from error


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
