"""Finds the processes of sandboxes in passes over /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Set
from dataclasses import dataclass

REFRESH_INTERVAL = 10.0  # seconds after which unrelated processes are looked up again
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # CPUCLOCK_SCHED of the kernel: exact, for a whole process
_NO_INIT = 0
_NO_PARENT = 0  # of the first process, and of those whose parent is in another namespace
_NEVER = 2**63  # later than any start time
_MAX_READS = 5  # of a process whose parent was not found
_DEAD_STATES = (b"Z", b"X")
# Page faults of an init that has only answered: a fork costs dozens, for each page that it writes
# to afterwards is copied. It forks and reaps by itself only; all else is done by the others.
_MAX_FAULTS_AT_REST = 8


@dataclass(frozen=True, slots=True)
class ProcStat:
    """The fields used of /proc/PID/stat."""

    pid: int
    parent_pid: int
    cpu_ns: int  # nanoseconds of processor time
    threads: int
    start_time: int
    resident_bytes: int  # bytes
    is_dead: bool = False  # and not reaped yet
    faults: int = 0  # minor page faults
    reaped_faults: int = 0  # those of its children that it waited for


@dataclass(frozen=True, slots=True)
class _Unrelated:
    """A process of no sandbox; its entry in /proc has another number than that of a later one."""

    start_time: int
    entry: int


class ProcessTree:
    """Remembers to which init each process belongs, so that only new ones must be looked up.

    A descendant of an init belongs to it for life: orphans become children of the init.
    """

    def __init__(self) -> None:
        self._members: dict[int, tuple[int, int]] = {}  # pid → its init, its start time
        self._unrelated: dict[int, _Unrelated] = {}  # by pid
        self._inits: set[int] = set()
        self._refreshed_at = 0.0
        self._cpu_ns: dict[int, int] = {}  # of the members, by pid
        self._init_stats: dict[int, ProcStat] = {}  # of the inits, when they did something
        self._init_faults: dict[int, int] = {}  # of the inits, as they were seen last
        self._newest = b""  # pid of the host
        self._is_settled = False
        self._by_init: dict[int, list[ProcStat]] = {}

    @property
    def size(self) -> int:
        """The number of processes that `have_rested` asks for."""
        return len(self._cpu_ns)

    def have_rested(self, inits: Collection[int]) -> bool:
        """Returns whether no process of these inits did anything since `by_init` (blocking).

        It costs a microsecond for each process. What was forked while `by_init` looked may not be
        known: only when two looks saw the same, all is known that could do something. An init that
        answers the server, as it does each PULSE_INTERVAL, has rested.
        """
        if not self._is_settled or set(inits) != self._inits:
            return False
        if time.monotonic() > self._refreshed_at + REFRESH_INTERVAL:
            return False
        for pid, before in self._cpu_ns.items():
            cpu_ns = _exact_cpu_ns(pid)
            if cpu_ns != before:
                process = read_stat(pid) if pid in self._inits else None
                if process is None or not self._has_only_answered(process):
                    return False
                self._cpu_ns[pid], self._init_faults[pid] = process.cpu_ns, process.faults
        return True

    def was_any_forked(self) -> bool:
        """Returns whether anybody on the host has forked since this was asked last (blocking)."""
        before, self._newest = self._newest, newest_pid()
        return self._newest != before

    def by_init(
        self, inits: Collection[int], *, is_fresh: bool = False
    ) -> dict[int, list[ProcStat]]:
        """Returns init → the init and its descendants, as they are now (blocking).

        `is_fresh`: those are looked for, too, that came from processes which no list has shown.
        """
        if not is_fresh and self.have_rested(inits):
            return self._by_init
        self._refresh_unrelated(set(inits))
        entries = _list_entries()
        self._unrelated = {
            pid: one for pid, one in self._unrelated.items() if entries.get(pid) == one.entry
        }
        found, is_whole = _read_all(entries.keys() - self._unrelated.keys(), self._unrelated.keys())
        by_init: dict[int, list[ProcStat]] = {init: [] for init in inits}
        self._members = {
            pid: (init, process.start_time)
            for pid, process in found.items()
            if (init := self._init_of(process, found)) != _NO_INIT
        }
        if is_whole:  # else nobody knows of whom it is a child
            self._unrelated |= {
                pid: _Unrelated(found[pid].start_time, entries[pid])
                for pid in found.keys() - self._members.keys()
            }
        cpu_ns = {pid: found[pid].cpu_ns for pid in self._members}
        for init in self._inits & found.keys():
            if not self._has_only_answered(found[init]):
                self._init_stats[init] = found[init]
            elif init in cpu_ns:  # that is no sign of something new
                self._cpu_ns[init] = cpu_ns[init]
            self._init_faults[init] = found[init].faults
            found[init] = self._init_stats[init]
        self._is_settled = cpu_ns == self._cpu_ns
        self._cpu_ns = cpu_ns
        for pid, (init, _) in self._members.items():
            by_init[init].append(found[pid])
        self._by_init = by_init
        return by_init

    def _has_only_answered(self, init: ProcStat) -> bool:
        """Returns whether an init neither forked nor reaped since it was seen last."""
        known = self._init_stats.get(init.pid)
        return (
            known is not None
            and (known.start_time, known.is_dead) == (init.start_time, init.is_dead)
            and known.reaped_faults == init.reaped_faults
            and init.faults - self._init_faults[init.pid] <= _MAX_FAULTS_AT_REST
        )

    def _refresh_unrelated(self, inits: set[int]) -> None:
        """Forgets unrelated processes, now and then all; and those that may be of a new sandbox.

        The latter have begun after its init, which may have been there for long.
        """
        now = time.monotonic()
        if now > self._refreshed_at + REFRESH_INTERVAL:
            self._unrelated.clear()
            self._refreshed_at = now
        elif new := inits - self._inits:
            began = (self._unrelated[pid].start_time for pid in new & self._unrelated.keys())
            first = min(began, default=_NEVER)
            self._unrelated = {
                pid: one for pid, one in self._unrelated.items() if one.start_time < first
            }
        self._inits = inits
        self._init_stats = {pid: one for pid, one in self._init_stats.items() if pid in inits}
        self._init_faults = {pid: one for pid, one in self._init_faults.items() if pid in inits}

    def _init_of(self, process: ProcStat, found: dict[int, ProcStat]) -> int:
        visited = set()
        one: ProcStat | None = process
        while one is not None and one.pid not in visited:
            if one.pid in self._inits:
                return one.pid
            init, started = self._members.get(one.pid, (_NO_INIT, 0))
            if started == one.start_time and init in self._inits:
                return init
            visited.add(one.pid)
            one = found.get(one.parent_pid)
        return _NO_INIT


def newest_pid() -> bytes:
    """Returns the pid that Linux gave last: another one when anybody has forked; empty: unknown."""
    return read_proc_file("/proc/loadavg").rpartition(b" ")[2]


def _read_all(pids: Collection[int], others: Set[int]) -> tuple[dict[int, ProcStat], bool]:
    """Returns processes by pid, and whether their parents are among them or `others` (blocking).

    A parent that ends between two reads is found nowhere, and its children would seem unrelated to
    anybody: they are read again, and have another parent then.
    """
    found: dict[int, ProcStat] = {}
    orphans = set(pids)
    for _ in range(_MAX_READS):
        for pid in orphans:
            if (process := read_stat(pid)) is not None:
                found[pid] = process
            else:
                found.pop(pid, None)
        known = found.keys() | others | {_NO_PARENT}
        orphans = {pid for pid, one in found.items() if one.parent_pid not in known}
        if not orphans:
            return found, True
    return found, False


class Family:
    """Remembers a process and its descendants, also those whose parents have died meanwhile."""

    def __init__(self, head: ProcStat) -> None:
        self._start_times = {head.pid: head.start_time}

    def find(self) -> set[int]:
        """Returns the pids of those that live, as they are now (blocking)."""
        found = {pid: one for pid in _list_pids() if (one := read_stat(pid)) is not None}
        children: dict[int, list[int]] = {}
        for one in found.values():
            children.setdefault(one.parent_pid, []).append(one.pid)
        known = [
            pid
            for pid, started in self._start_times.items()
            if pid in found and found[pid].start_time == started
        ]
        members: set[int] = set()
        while known:
            pid = known.pop()
            if pid not in members:
                members.add(pid)
                known += children.get(pid, ())
        self._start_times = {pid: found[pid].start_time for pid in members}
        return {pid for pid in members if not found[pid].is_dead}


def list_by_uid(uid: int) -> set[int]:
    """Returns the pids of all living processes of a uid (blocking)."""
    return {pid for pid in _list_pids() if _has_uid(pid, uid)}


def _has_uid(pid: int, uid: int) -> bool:
    lines = read_proc_file(f"/proc/{pid}/status").splitlines()
    fields = {name: rest.split() for name, _, rest in (line.partition(b":") for line in lines)}
    # The real, effective, saved and file system uid.
    if b"%d" % uid not in fields.get(b"Uid", ()):
        return False
    return fields[b"State"][0] not in _DEAD_STATES or int(fields[b"Threads"][0]) > 1


def _list_entries() -> dict[int, int]:
    """Returns the pids of all processes, with the numbers of their entries in /proc (blocking).

    Linux makes an entry for each process anew, with a number of its own: so a pid that is another
    process's by now shows without a look at the process.
    """
    with os.scandir("/proc") as entries:
        return {int(one.name): one.inode() for one in entries if one.name.isdecimal()}


def _list_pids() -> set[int]:
    return set(_list_entries())


def read_stat(pid: int) -> ProcStat | None:
    """Reads /proc/PID/stat; returns None when the process is gone."""
    # The name in parentheses may hold anything; behind it: state, ppid, …
    fields = read_proc_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    return ProcStat(
        pid=pid,
        parent_pid=int(fields[1]),
        cpu_ns=_cpu_time_ns(pid, sum(map(int, fields[11:13]))),
        threads=int(fields[17]),
        start_time=int(fields[19]),
        resident_bytes=int(fields[21]) * _PAGE,
        # The first thread of a process may end before the others.
        is_dead=fields[0] in _DEAD_STATES and int(fields[17]) <= 1,
        faults=int(fields[7]),
        reaped_faults=int(fields[8]),
    )


def _cpu_time_ns(pid: int, ticks: int) -> int:
    """Returns the time of all its threads in nanoseconds; see clock_getcpuclockid(3).

    The ticks of /proc are 10 ms each; a call that allocates gigabytes of disk may take less.
    """
    exact = _exact_cpu_ns(pid)
    return ticks * _TICK if exact is None else exact


def _exact_cpu_ns(pid: int) -> int | None:
    """Returns the same; None when the process is gone, or the system has no such clock."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None


def read_proc_file(path: str) -> bytes:
    """Returns a short file of /proc; empty when its process is gone."""
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
