"""Finds who holds locks whose process has ended: they live on with the open files, see flock(2).

A process holds open files by descriptors, of which each thread may have its own, and by mappings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Set

from era_kernels.sandbox.server.process_tree import read_proc_file

PATIENCE = 0.3  # seconds for each session
_INODE_FIELD = 4  # in maps
_DESCRIPTORS = b"FDSize:"  # in status, which everybody may read


def count_open(pids: Collection[int], inodes: Set[int], enough: int) -> int:
    """Returns how often these processes have files of these inodes open (blocking).

    Returns `enough` where it is as much, and where to see it takes longer than PATIENCE. Devices
    are not compared: overlayfs and btrfs show others by the files than by their locks. Of a process
    that does not let itself be looked into, all descriptors count.
    """
    deadline = time.monotonic() + PATIENCE
    count = 0
    for pid in pids:
        for inode in _open_inodes(pid):
            count += inode is None or inode in inodes
            if count >= enough or time.monotonic() > deadline:
                return enough
    return count


def _open_inodes(pid: int) -> Iterator[int | None]:
    """Yields the inode of each mapping and descriptor, None where it cannot be seen."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names, not paths
    except OSError:  # it has ended
        return
    yield from _mapped_inodes(pid, threads)
    for thread in threads:
        yield from _described_inodes(f"/proc/{pid}/task/{thread}")


def _mapped_inodes(pid: int, threads: Collection[str]) -> Iterator[int]:
    """Yields the inodes of mappings; any of its threads shows them, but not a dead one."""
    for thread in threads:
        has_mappings = False
        try:
            with open(f"/proc/{pid}/task/{thread}/maps", "rb") as lines:  # noqa: PTH123 - no path
                for line in lines:
                    has_mappings = True
                    yield int(line.split(None, _INODE_FIELD + 1)[_INODE_FIELD])
        except OSError:
            continue
        if has_mappings:
            return


def _described_inodes(thread: str) -> Iterator[int | None]:
    try:
        numbers = os.listdir(f"{thread}/fd")  # noqa: PTH208 - names, not paths
    except PermissionError:
        yield from [None] * _count_descriptors(thread)
        return
    except OSError:
        return
    for number in numbers:
        try:
            yield os.stat(f"{thread}/fd/{number}").st_ino  # noqa: PTH116 - no path
        except OSError:
            yield 0


def _count_descriptors(thread: str) -> int:
    """Returns for how many descriptors a thread has room."""
    for line in read_proc_file(f"{thread}/status").splitlines():
        if line.startswith(_DESCRIPTORS):
            return int(line.removeprefix(_DESCRIPTORS))
    return 0
