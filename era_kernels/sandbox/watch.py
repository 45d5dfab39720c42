"""What a sandbox uses, looked at from outside: the kernel bounds each process, this all together.

Reads /proc of the init's family. A look at processes that did nothing since the last costs some
microseconds each; only where something changed is more counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.models import Limits

MIB = 1024 * 1024
INTERVAL = 0.5  # seconds between two looks, and 20 times as long as one took
_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class _Activity:
    """What changes when a sandbox does anything."""

    processes: int
    threads: int
    ticks: int
    resident: int  # bytes; what is shared counts for each


class Watch:
    """The limits of one sandbox, whose init has that pid on the host."""

    def __init__(self, pid: int, workspace: Path, limits: Limits) -> None:
        self._pid = pid
        self._workspace = workspace
        self._limits = limits
        self._last: _Activity | None = None

    def exceeded(self) -> str | None:
        """Which limit is exceeded, in words; None when all is well (blocking)."""
        family = list(_family(self._pid))
        activity = _activity(family)
        if activity == self._last:
            return None
        self._last = activity
        limits = self._limits
        if limits.processes is not None and activity.threads - 1 > limits.processes:
            return f"more than {limits.processes} processes"
        if limits.memory is not None and _memory(family, activity, limits.memory):
            return f"out of memory at {limits.memory // MIB} MB"
        if limits.workspace is not None and _is_larger(self._workspace, limits.workspace):
            return f"workspace larger than {limits.workspace // MIB} MB"
        return None


def _family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        yield one
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208 - names, not paths
                waiting += map(int, _read(f"/proc/{one}/task/{task}/children").split())


def _activity(family: list[int]) -> _Activity:
    threads = ticks = resident = 0
    for pid in family:
        # The name in parentheses may hold anything; behind it: state, ppid, …
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            ticks += int(fields[11]) + int(fields[12])
            threads += int(fields[17])
            resident += int(fields[21]) * _PAGE
    return _Activity(len(family), threads, ticks, resident)


def _memory(family: list[int], activity: _Activity, bound: int) -> bool:
    """Do they use more? What they share with others counts in part, what no one maps as well."""
    hidden = sum(_hidden(pid) for pid in family)
    if activity.resident + hidden <= bound:
        return False
    return sum(_share(pid) for pid in family) + hidden > bound


def _share(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _hidden(pid: int) -> int:
    """Files in memory that a process holds open; in pages that it maps they count twice."""
    total = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names, not paths
            path = f"/proc/{pid}/fd/{name}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - text, not a path
                    total += os.stat(path).st_blocks * _BLOCK  # noqa: PTH116 - by descriptor
    return total


def _is_larger(directory: Path, bound: int) -> bool:
    """Do the files below take more of the disk? No link is followed."""
    total = 0
    waiting = [str(directory)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        if total > bound:
            return True
    return False


def _read(path: str) -> str:
    """A file of /proc; empty when its process is gone."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
