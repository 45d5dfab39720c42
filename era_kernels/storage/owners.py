"""Whose files are whose: what the server makes in a session's directory belongs to the session.

The walls give each session a uid of its own where they can, and with it the session's directories.
"""

from __future__ import annotations

import os


def give(file: int, directory: int) -> None:
    """Make the owner of a directory (both are descriptors) the owner of a file as well.

    Nothing where one user owns everything. Raises OSError.
    """
    owner, present = os.fstat(directory), os.fstat(file)
    if (owner.st_uid, owner.st_gid) != (present.st_uid, present.st_gid):
        os.fchown(file, owner.st_uid, owner.st_gid)
