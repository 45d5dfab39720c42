"""Bounds the locks that a session holds on files: fcntl(2), F_SETLK, and flock(2).

Linux keeps some 200 bytes for each, which no control group counts, and of the first kind any number
at one file. `/proc/locks` tells them all with the process that made them, as proc(5) says. The
filter of system calls refuses those that tell no process: locks of open files, and of a table of
descriptors that outlives the process (CLONE_FILES). Those of flock(2) outlive it as well: others
may have the open file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from era_kernels.sandbox.server.lock_holders import count_open
from era_kernels.sandbox.server.process_tree import ProcStat

MAX_LOCKS = 10_000  # of one session
MAX_LOCKS_READ = 2 * MAX_LOCKS  # of everybody: to read a very long list takes Linux long
LEAST_LOCKS = 100  # with fewer no session is ended for what others hold
_READ_SIZE = 64 * 1024
_BLOCKED = b"->"  # before the fields of a lock that waits
_PID_FIELD, _FILE_FIELD = 4, 5

Locks = Counter[tuple[int, int]]  # (pid, inode) → how many


def sessions_past_bound(processes: Mapping[int, Collection[ProcStat]]) -> dict[int, str]:
    """Returns which sessions are to end, and why; both by their inits (blocking).

    Where there are too many locks to read them all, it is the session that holds the most.
    """
    locks = read_locks()
    pids = {init: {one.pid for one in found} for init, found in processes.items()}
    counts = _count_by_session(locks, pids)
    past = {
        init: f"more than {MAX_LOCKS} locks on parts of files"
        for init, count in counts.items()
        if count > MAX_LOCKS
    }
    if past or locks.total() < MAX_LOCKS_READ:
        return past
    counts.update(_count_ownerless(locks, pids))
    most = max(counts, key=lambda init: counts[init], default=None)
    if most is None or counts[most] < LEAST_LOCKS:
        return {}
    return {most: f"{MAX_LOCKS_READ} locks on files, and this session held the most"}


def _count_by_session(locks: Locks, pids: Mapping[int, Collection[int]]) -> Counter[int]:
    """Returns init → how many locks its processes have made, which still live."""
    by_pid: Counter[int] = Counter()
    for (pid, _), count in locks.items():
        by_pid[pid] += count
    return Counter({init: sum(by_pid[one] for one in found) for init, found in pids.items()})


def _count_ownerless(locks: Locks, pids: Mapping[int, Collection[int]]) -> Counter[int]:
    """Returns init → how many of the locks that no session's process made it may hold."""
    known = {pid for found in pids.values() for pid in found}
    inodes = {inode for pid, inode in locks if pid not in known}
    if not inodes:
        return Counter()
    return Counter({one: count_open(found, inodes, MAX_LOCKS_READ) for one, found in pids.items()})


def read_locks() -> Locks:
    """Returns the first MAX_LOCKS_READ locks on the host (blocking)."""
    locks: Locks = Counter()
    total, rest = 0, b""
    try:
        with open("/proc/locks", "rb", buffering=0) as file:  # noqa: PTH123 - no path
            while total < MAX_LOCKS_READ and (part := file.read(_READ_SIZE)):
                *lines, rest = (rest + part).split(b"\n")
                locks.update(map(_pid_and_inode, lines))
                total += len(lines)
    except OSError:  # a container may hide it
        pass
    return locks


def _pid_and_inode(line: bytes) -> tuple[int, int]:
    """Returns both of a line such as `1: POSIX  ADVISORY  WRITE 412 fe:00:77 0 EOF`; else 0."""
    fields = line.split(None, _FILE_FIELD + 2)
    place = len(fields) > 1 and fields[1] == _BLOCKED
    if len(fields) <= _FILE_FIELD + place or not fields[_PID_FIELD + place].isdigit():
        return 0, 0
    return int(fields[_PID_FIELD + place]), int(fields[_FILE_FIELD + place].rpartition(b":")[2])
