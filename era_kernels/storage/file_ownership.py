"""Gives files that the server makes in a session's directory to the session's user.

The sandbox gives each session a uid of its own where it can, and the session's directories to it.
"""

from __future__ import annotations

import os
from pathlib import Path


def chown_like(file: int, directory: int) -> None:
    """Makes the owner of a directory (both are descriptors) the owner of a file as well.

    Does nothing where one user owns everything. Raises OSError.
    """
    _chown_if_different(file, os.fstat(file), directory)


def chown_path_like(path: Path, directory: int) -> None:
    """Makes a directory's owner the owner of a file that no code can reach yet. Raises OSError."""
    _chown_if_different(path, path.lstat(), directory)


def _chown_if_different(file: int | Path, status: os.stat_result, directory: int) -> None:
    owner = os.fstat(directory)
    if (owner.st_uid, owner.st_gid) != (status.st_uid, status.st_gid):
        os.chown(file, owner.st_uid, owner.st_gid)
