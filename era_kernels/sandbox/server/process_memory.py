"""Measures the memory of a sandbox by its processes, where no control group counts it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from era_kernels.sandbox.server.files_in_memory import FilesInMemory
from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file

# Of the processor, for the pages of one session: a process may have tens of thousands of mappings.
MAX_SECONDS = 1.0


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


def proportional_bytes(processes: Collection[ProcStat], init: int) -> int:
    """Returns the bytes of the processes, each shared page divided by its sharers (blocking).

    Files in memory are not among it: `FilesInMemory` measures those. Processes may hide their pages
    from an ordinary user, as the sandbox's init does. Those of code then count in full, and those
    of the init, which it shares with the zygote, not at all. So do those that are left after
    MAX_SECONDS.
    """
    total, limit = 0, time.thread_time() + MAX_SECONDS
    for one in processes:
        share = _proportional_bytes(one.pid) if time.thread_time() < limit else 0
        total += share or (0 if one.pid == init else one.resident_bytes)
    return total


def exceeds(
    processes: Collection[ProcStat],
    init: int,
    resident: int,
    max_bytes: int,
    files_in_memory: FilesInMemory,
) -> bool:
    """Returns whether the processes use more; `resident` is the sum of what each has (blocking)."""
    beside = bytes_beside_pages(processes, init, files_in_memory)
    if resident + beside <= max_bytes:
        return False
    return proportional_bytes(processes, init) + beside > max_bytes


def bytes_beside_pages(
    processes: Collection[ProcStat], init: int, files_in_memory: FilesInMemory
) -> int:
    """Returns what processes have beside the pages they use: files in memory, and page tables.

    A page of zeros is nobody's, and a table of 4 KiB for each 2 MiB of those is the reader's alone:
    without these, reading what was never written would take all memory of the host (blocking).
    """
    tables = sum(_page_table_bytes(one.pid) for one in processes if one.pid != init)
    return files_in_memory.measure(processes, init) + tables


def _page_table_bytes(pid: int) -> int:
    """Returns the bytes of a process's page tables, which it cannot hide; 0 when it has ended."""
    for line in read_proc_file(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmPTE:"):
            return int(line.split()[1]) * 1024
    return 0


def _proportional_bytes(pid: int) -> int:
    """Returns the process's share without files in memory; 0 when it has ended or hides it."""
    sizes = dict.fromkeys((b"Pss:", b"Pss_Shmem:"), 0)
    for line in read_proc_file(f"/proc/{pid}/smaps_rollup").splitlines():
        name, *fields = line.split()
        if name in sizes:
            sizes[name] = int(fields[0]) * 1024
    return sizes[b"Pss:"] - sizes[b"Pss_Shmem:"]
