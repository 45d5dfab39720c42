"""Finds out whether a session has processes that a list of them does not show.

Each process of a chain forks the next and ends at once, so that it is gone before anybody looks at
it; the next one has its descriptors. No signal reaches them, and what they hold is found nowhere.
A control group counts them all the same. Without one the newest processes of the host are looked
at again and again: those of a chain are among them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from era_kernels.sandbox.linux.cgroup import list_members
from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file, read_stat

_COUNT = "pids.current"
_LOOKS = 30  # at the newest processes: each may find the last one gone, and not the next


class UnseenProcesses:
    """Looks for the processes of one session; `init` is a pid."""

    def __init__(self, init: int, groups: Sequence[Path] = ()) -> None:
        """Takes the session's control groups, of which one may count its processes."""
        self.init = init
        self._group = next((one for one in groups if (one / _COUNT).exists()), None)

    @property
    def is_counted(self) -> bool:
        """True when a group counts them, so that `are_there` misses none."""
        return self._group is not None

    def are_there(self, seen: Collection[ProcStat]) -> bool:
        """Returns whether there may be others than these, which stand still (blocking, briefly)."""
        known = {one.pid for one in seen} | {self.init}
        if self._group is None:
            return any(self._is_newest_unseen(known) for _ in range(_LOOKS))
        counted = read_proc_file(f"{self._group}/{_COUNT}").strip()
        others = list_members([self._group]) - known
        parents = {pid: one.parent_pid for pid in others if (one := read_stat(pid)) is not None}
        threads = sum(one.threads for pid in known if (one := read_stat(pid)) is not None)
        for pid, parent in parents.items():  # those of the server, as pasta, live on
            process = read_stat(pid)
            if process is not None and process.parent_pid == parent and parent not in known:
                threads += process.threads
        return counted.isdigit() and int(counted) > threads

    def _is_newest_unseen(self, known: Collection[int]) -> bool:
        """Returns whether the newest process is a child of these, and not one of them."""
        *_, newest = read_proc_file("/proc/loadavg").split() or [b""]
        if not newest.isdigit():
            return False
        for pid in (int(newest), int(newest) + 1):
            process = None if pid in known else read_stat(pid)
            if process is not None and process.parent_pid in known:
                return True
        return False
