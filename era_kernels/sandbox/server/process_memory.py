"""Measures the memory of a sandbox by its processes, where no control group counts it."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file

_BLOCK = 512
_TMPFS = ("tmp", "dev/shm")  # in a sandbox with mounts of its own


@dataclass(frozen=True, slots=True)
class Activity:
    """The numbers that change when a sandbox does anything."""

    processes: int
    threads: int
    cpu_ns: int  # nanoseconds
    resident_bytes: int  # bytes; shared pages count for each process

    @classmethod
    def of(cls, processes: Collection[ProcStat]) -> Activity:
        return cls(
            processes=len(processes),
            threads=sum(one.threads for one in processes),
            cpu_ns=sum(one.cpu_ns for one in processes),
            resident_bytes=sum(one.resident_bytes for one in processes),
        )


def files_in_memory(processes: Collection[ProcStat]) -> int:
    """Returns the bytes of files in memory, also of those that no process maps (blocking).

    They are the memfds that processes have open, and what is in /tmp and /dev/shm of the sandbox.
    """
    return sum(_memfd_bytes(one.pid) for one in processes) + _tmpfs_bytes(processes)


def proportional_bytes(processes: Collection[ProcStat], init: int) -> int:
    """Returns the bytes of the processes, each shared page divided by its sharers (blocking).

    Files in memory that are mapped are among it: together with `files_in_memory` they count twice.
    Processes may hide their pages from an ordinary user, as the sandbox's init does. Those of code
    then count in full, and those of the init, which it shares with the zygote, not at all.
    """
    return sum(
        _proportional_bytes(one.pid) or (0 if one.pid == init else one.resident_bytes)
        for one in processes
    )


def exceeds(processes: Collection[ProcStat], init: int, resident: int, max_bytes: int) -> bool:
    """Returns whether the processes use more; `resident` is the sum of what each has (blocking)."""
    files = files_in_memory(processes)
    if resident + files <= max_bytes:
        return False
    return proportional_bytes(processes, init) + files > max_bytes


def _proportional_bytes(pid: int) -> int:
    """Returns the process's share; 0 when it has ended or hides it."""
    for line in read_proc_file(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _memfd_bytes(pid: int) -> int:
    total = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names, not paths
            path = f"/proc/{pid}/fd/{name}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - text, not a path
                    total += os.stat(path).st_blocks * _BLOCK  # noqa: PTH116 - by descriptor
    return total


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
    if os.stat(inside).st_dev == os.stat(f"/{name}").st_dev:  # noqa: PTH116 - as above
        return 0
    usage = os.statvfs(inside)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize
