"""Tells what is left of a file system, of which bytes or inodes may come to an end first."""

from __future__ import annotations

import os


def free_and_total(status: os.statvfs_result) -> tuple[int, int]:
    """Returns the bytes that may still be taken of a file system, and all of its bytes.

    Free inodes count as their share of all: where a tenth of them is free, at most a tenth of the
    bytes is. A file system that makes inodes when they are needed tells of none (statvfs(3)).
    """
    total = status.f_blocks * status.f_frsize
    free = status.f_bavail * status.f_frsize
    if status.f_files:
        free = min(free, total * status.f_favail // status.f_files)
    return free, total
