"""Measures what one session has in files in memory, where no control group counts it.

They are the files of memfd_create(2) and of shared mappings, whether processes have them open or
mapped, and what is in /tmp and /dev/shm of the sandbox.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from functools import cache

from era_kernels.sandbox.server.nameless_files import NamelessFiles
from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file

_TMPFS = ("tmp", "dev/shm")  # in a sandbox with mounts of its own
_NO_LIMIT = 1 << 62
# Of the processor, for one session's files: what was not seen by then counts as hidden. Others wait
# for the same check, and a session may have hundreds of thousands of descriptors.
MAX_SECONDS = 0.1


class FilesInMemory:
    """The files in memory of one session, and when all of them were seen."""

    def __init__(self) -> None:
        self._when_all_was_seen = _host_bytes(), 0  # of the whole host, and of the session
        self.total = 0  # that were seen last

    def measure(self, processes: Collection[ProcStat], init: int) -> int:
        """Returns their bytes (blocking).

        Some cannot be seen while descriptors are on their way through a socket, a process does not
        let itself be looked into, or to see all would take long. Until all are seen again the
        session is taken to have all by which such files of the whole host have grown.
        """
        found = NamelessFiles()
        pids = [one.pid for one in processes if one.pid != init]  # the init is trusted, and hides
        limit = time.thread_time() + MAX_SECONDS
        for _ in found.find(pids, (_device(),), _NO_LIMIT):
            if time.thread_time() > limit:
                found.hides_files = True
                break
        self.total = total = found.total + _tmpfs_bytes(processes)
        host = _host_bytes()
        if found.hides_files:
            host_then, total_then = self._when_all_was_seen
            return max(total, total_then + host - host_then)
        self._when_all_was_seen = host, total
        return total


@cache
def _device() -> int:
    """Returns the device number of memfds and shared mappings."""
    descriptor = os.memfd_create("device", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _host_bytes() -> int:
    """Returns what the host has in files in memory."""
    for line in read_proc_file("/proc/meminfo").splitlines():
        if line.startswith(b"Shmem:"):
            return int(line.split()[1]) * 1024
    return 0


def _tmpfs_bytes(processes: Collection[ProcStat]) -> int:
    """Returns what is in the sandbox's own file systems in memory; 0 where they are the host's.

    An ordinary user sees them through a process that does not hide its root directory.
    """
    for one in processes:
        with suppress(OSError):
            return sum(_own_tmpfs_bytes(one.pid, name) for name in _TMPFS)
    return 0


def _own_tmpfs_bytes(pid: int, name: str) -> int:
    inside = f"/proc/{pid}/root/{name}"
    if os.stat(inside).st_dev == os.stat(f"/{name}").st_dev:  # noqa: PTH116 - no path
        return 0
    usage = os.statvfs(inside)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize
