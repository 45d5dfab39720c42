"""Reads small files where other programs put theirs: whatever lies there, reading it ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 1024 * 1024  # of a file that describes something


def read_small_file(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the content of a regular file (blocking).

    Raises OSError, also for what is no regular file, such as a pipe, and for a larger one.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(file))
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes", str(file))
    return content
