"""Who descends from whom: the processes of many sandboxes, found in one pass over /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass

RENEWAL = 10.0  # seconds after which all that is known of strangers is looked up again
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_ALL_OF_IT = 2  # CPUCLOCK_SCHED of the kernel: precise, of a whole process
_STRANGER = 0


@dataclass(frozen=True, slots=True)
class Process:
    """What one line of /proc tells of a process."""

    pid: int
    parent: int
    cpu: int  # nanoseconds of processor time
    threads: int
    started: int
    resident: int  # bytes


class Population:
    """Knows to which init each process belongs, so that only new ones must be looked up.

    Whoever descends from an init belongs to it for life: orphans become children of the init.
    """

    def __init__(self) -> None:
        self._members: dict[int, tuple[int, int]] = {}  # pid → its init, when it was started
        self._strangers: set[int] = set()
        self._inits: set[int] = set()
        self._renewed = 0.0

    def families(self, inits: Collection[int]) -> dict[int, list[Process]]:
        """Init → it and all below it, as they are now (blocking)."""
        self._forget(set(inits))
        there = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        self._strangers &= there
        found: dict[int, Process] = {}
        for pid in there - self._strangers:
            if (process := look_up(pid)) is not None:
                found[pid] = process
        families: dict[int, list[Process]] = {init: [] for init in inits}
        self._members = {
            pid: (init, process.started)
            for pid, process in found.items()
            if (init := self._init_of(process, found)) != _STRANGER
        }
        self._strangers |= found.keys() - self._members.keys()
        for pid, (init, _) in self._members.items():
            families[init].append(found[pid])
        return families

    def _forget(self, inits: set[int]) -> None:
        """A stranger may turn out to be of a new sandbox, or his pid may be another's by now."""
        present = time.monotonic()
        if inits - self._inits or present > self._renewed + RENEWAL:
            self._strangers.clear()
            self._renewed = present
        self._inits = inits

    def _init_of(self, process: Process, found: dict[int, Process]) -> int:
        line = set()
        one: Process | None = process
        while one is not None and one.pid not in line:
            if one.pid in self._inits:
                return one.pid
            init, started = self._members.get(one.pid, (_STRANGER, 0))
            if started == one.started and init in self._inits:
                return init
            line.add(one.pid)
            one = found.get(one.parent)
        return _STRANGER


def look_up(pid: int) -> Process | None:
    """What the system says of a process; None when it is gone."""
    # The name in parentheses may hold anything; behind it: state, ppid, …
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        cpu=_cpu(pid, sum(map(int, fields[11:13]))),
        threads=int(fields[17]),
        started=int(fields[19]),
        resident=int(fields[21]) * _PAGE,
    )


def _cpu(pid: int, ticks: int) -> int:
    """What all threads of it have used, to the nanosecond; see clock_getcpuclockid(3).

    The ticks of /proc are 10 ms each, and a call that takes gigabytes of disk takes less.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | _ALL_OF_IT)
    except OSError:  # it is gone, or the system has no such clock
        return ticks * _TICK


def read(path: str) -> bytes:
    """A short file of /proc; empty when its process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 8192)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
