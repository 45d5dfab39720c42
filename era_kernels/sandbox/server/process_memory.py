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


def files_in_memory(processes: Collection[ProcStat], init: int) -> int:
    """Returns the bytes of files in memory, also of those that no process maps (blocking).

    They are the memfds that processes have open, and /tmp and /dev/shm of the sandbox whose init
    has that pid.
    """
    return sum(_memfd_bytes(one.pid) for one in processes) + _tmpfs_bytes(init)


def proportional_bytes(processes: Collection[ProcStat]) -> int:
    """Returns the bytes of the processes, each shared page divided by its sharers (blocking).

    Files in memory that are mapped are among it: together with `files_in_memory` they count twice.
    """
    return sum(_proportional_bytes(one.pid) for one in processes)


def exceeds(processes: Collection[ProcStat], init: int, resident: int, max_bytes: int) -> bool:
    """Returns whether the processes use more; `resident` is the sum of what each has (blocking)."""
    files = files_in_memory(processes, init)
    return resident + files > max_bytes and proportional_bytes(processes) + files > max_bytes


def _proportional_bytes(pid: int) -> int:
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


def _tmpfs_bytes(init: int) -> int:
    """Returns what is in the sandbox's own file systems in memory; 0 where they are the host's.

    So it is, too, where this process may not look into the init.
    """
    total = 0
    for name in _TMPFS:
        with suppress(OSError):
            inside = f"/proc/{init}/root/{name}"
            if os.stat(inside).st_dev != os.stat(f"/{name}").st_dev:  # noqa: PTH116 - as above
                usage = os.statvfs(inside)
                total += (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    return total
