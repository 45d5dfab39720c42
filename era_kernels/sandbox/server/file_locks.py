"""Bounds the locks that a session holds on parts of files: fcntl(2), F_SETLK.

Linux keeps some 200 bytes for each, which no control group counts, and any number at one file.
`/proc/locks` tells them all with the process that made them, as proc(5) says. The filter of system
calls refuses those that tell no process: locks of open files, and of a table of descriptors that
outlives the process (CLONE_FILES).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from era_kernels.sandbox.server.process_tree import ProcStat

MAX_LOCKS = 10_000  # of one session
MAX_LOCKS_READ = 2 * MAX_LOCKS  # of everybody: to read a very long list takes Linux long
LEAST_LOCKS = 100  # with fewer no session is ended for what others hold
_READ_SIZE = 64 * 1024
_BLOCKED = b"->"  # before the fields of a lock that waits
_PID_FIELD = 4


def sessions_past_bound(processes: Mapping[int, Collection[ProcStat]]) -> dict[int, str]:
    """Returns which sessions are to end, and why; both by their inits (blocking).

    Where there are too many locks to read them all, it is the session that holds the most.
    """
    by_pid = count_by_process()
    counts = {init: sum(by_pid[one.pid] for one in found) for init, found in processes.items()}
    past = {
        init: f"more than {MAX_LOCKS} locks on parts of files"
        for init, count in counts.items()
        if count > MAX_LOCKS
    }
    if past or by_pid.total() < MAX_LOCKS_READ:
        return past
    most = max(counts, key=lambda init: counts[init], default=None)
    if most is None or counts[most] < LEAST_LOCKS:
        return {}
    return {most: f"{MAX_LOCKS_READ} locks on parts of files, and this session held the most"}


def count_by_process() -> Counter[int]:
    """Returns pid → how many locks it has, of the first MAX_LOCKS_READ on the host (blocking)."""
    counts: Counter[int] = Counter()
    rest = b""
    try:
        with open("/proc/locks", "rb", buffering=0) as file:  # noqa: PTH123 - no path
            while counts.total() < MAX_LOCKS_READ and (part := file.read(_READ_SIZE)):
                *lines, rest = (rest + part).split(b"\n")
                counts.update(map(_pid_of, lines))
    except OSError:  # a container may hide it
        pass
    return counts


def _pid_of(line: bytes) -> int:
    """Returns the pid in a line such as `1: POSIX  ADVISORY  WRITE 412 fe:00:77 0 EOF`; else 0."""
    fields = line.split(None, _PID_FIELD + 2)
    place = _PID_FIELD + (len(fields) > 1 and fields[1] == _BLOCKED)
    return int(fields[place]) if len(fields) > place and fields[place].isdigit() else 0
