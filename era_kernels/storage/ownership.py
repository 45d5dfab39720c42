"""Whose files are whose: what the server makes in a session's directory belongs to the session.

The walls give each session a uid of its own where they can, and with it the session's directories.
"""

from __future__ import annotations

import os
from pathlib import Path


def chown_like(file: int, directory: int) -> None:
    """Make the owner of a directory (both are descriptors) the owner of a file as well.

    Nothing where one user owns everything. Raises OSError.
    """
    _chown_if_different(file, os.fstat(file), directory)


def chown_path_like(path: Path, directory: int) -> None:
    """The same for a file that no code can reach yet."""
    _chown_if_different(path, path.lstat(), directory)


def _chown_if_different(file: int | Path, status: os.stat_result, directory: int) -> None:
    owner = os.fstat(directory)
    if (owner.st_uid, owner.st_gid) != (status.st_uid, status.st_gid):
        os.chown(file, owner.st_uid, owner.st_gid)
