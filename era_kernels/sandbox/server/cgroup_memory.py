"""Reads how much memory a control group uses, and for whose bound Linux killed in it.

The files are those of the controller `memory`, in version 1 and 2: see the kernel's documents
admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst. What a group uses holds files that
Linux keeps in memory as long as nobody needs it; `used_bytes` is without those.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from era_kernels.sandbox.server.process_tree import read_proc_file

_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
# In memory.stat: what Linux gives back before anybody is killed. Files in memory (tmpfs, memfd) are
# not among it. Version 1 does not tell how much of the kernel's own memory it could give back.
_RECLAIMABLE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}
# The files in which Linux counts the processes that it killed for lack of memory.
_KILL_COUNTERS = {1: "memory.oom_control", 2: "memory.events"}
# In version 2: how often a group reached its own bound and nothing could be given back. Kernels
# before 5.2 have the second file only, which counts for the groups below, too.
_LOCAL_EVENTS = ("memory.events.local", "memory.events")
# In version 1: the bound and the most that was used. `memory.failcnt` would tell the same, but new
# kernels do not count it. What is taken in one piece may be as large as the slack.
_BOUND_V1, _PEAK_V1, _SLACK = "memory.limit_in_bytes", "memory.max_usage_in_bytes", 4 * 1024**2


class Shortage(Enum):
    """Whose memory ran out when Linux killed a process of a session."""

    SESSION = auto()  # the session's own bound
    SERVER = auto()  # the bound of all sessions together
    HOST = auto()  # the host, or a container that the server is in


class MemoryGroup:
    """One group of the controller `memory`; every call reads files, in 10 to 20 microseconds."""

    def __init__(self, directory: Path, version: int) -> None:
        """Takes a group's directory, which may be made later."""
        self.directory = directory
        self.version = version
        self.oom_eventfd: int | None = None
        self._oom_count = 0

    def total_bytes(self) -> int:
        """Returns all that the group and those below use, with files that Linux keeps in memory."""
        return self._number(_USAGE[self.version])

    def used_bytes(self) -> int:
        """Returns what they use without what Linux could give back; 0 when the group is gone."""
        stat = _parse_counters(self._read("memory.stat"))
        reclaimable = sum(stat.get(name, 0) for name in _RECLAIMABLE[self.version])
        return max(0, self.total_bytes() - reclaimable)

    def kill_count(self) -> int:
        """Returns how many processes Linux killed in this group for lack of memory."""
        return self._counter([_KILL_COUNTERS[self.version]], "oom_kill")

    def oom_count(self) -> int:
        """Returns how often memory ran out: in version 1 for this group's bound or one above it.

        In version 2 for this group's bound alone, or one below it where the kernel is older than
        5.2.
        """
        if self.version == 2:
            return self._counter(_LOCAL_EVENTS, "oom")
        if self.oom_eventfd is not None:
            with suppress(BlockingIOError):
                self._oom_count += os.eventfd_read(self.oom_eventfd)
        return self._oom_count

    def has_hit_bound(self) -> bool:
        """Returns whether the group ever reached its own bound, also when no process was killed."""
        if self.version == 2:
            return self.oom_count() > 0
        return self._number(_PEAK_V1) >= self._number(_BOUND_V1) - _SLACK

    def watch(self) -> None:
        """Begins to count in version 1, where an eventfd tells it. Raises OSError.

        Version 2 has files for that, and Linux kills all members, the init among them.
        """
        if self.version == 1 and self.oom_eventfd is None:
            self.oom_eventfd = _create_oom_eventfd(self.directory)

    def unwatch(self) -> None:
        """Closes the eventfd; a second call does nothing."""
        if self.oom_eventfd is not None:
            os.close(self.oom_eventfd)
            self.oom_eventfd = None

    def _number(self, name: str) -> int:
        text = self._read(name).strip()
        return int(text) if text.isdigit() else 0

    def _counter(self, files: Sequence[str], name: str) -> int:
        """Returns a counter of the first of these files that exists."""
        text = next((text for file in files if (text := self._read(file))), b"")
        return _parse_counters(text).get(name, 0)

    def _read(self, name: str) -> bytes:
        return read_proc_file(f"{self.directory}/{name}")


class OomWatch:
    """Tells for whose bound Linux killed in a session's group, which is below the server's."""

    def __init__(self, group: MemoryGroup, server_group: MemoryGroup) -> None:
        """Begins to watch the session's group. Raises OSError."""
        self._group = group
        self._server_group = server_group
        group.watch()
        self._server_ooms_before = server_group.oom_count()

    def shortage(self) -> Shortage | None:
        """Returns whose memory ran out, or None when Linux killed nothing in the group."""
        # First: what is not read from an eventfd would wake its reader for ever.
        own, server = self._group.oom_count(), self._server_group.oom_count()
        if not self._group.kill_count():
            return None
        server -= self._server_ooms_before
        if self._group.version == 1:
            own -= server  # an event goes to the group that ran out and to all below it
        if own > 0:
            return Shortage.SESSION
        return Shortage.SERVER if server and self._server_group.has_hit_bound() else Shortage.HOST


def _parse_counters(text: bytes) -> dict[str, int]:
    """Returns name → number of lines such as `oom_kill 1`."""
    pairs = (line.split() for line in text.decode("ascii", "replace").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _create_oom_eventfd(directory: Path) -> int:
    """Returns a descriptor that becomes readable when memory runs out, before any kill."""
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(directory / _KILL_COUNTERS[1], os.O_RDONLY | os.O_CLOEXEC)
        try:
            (directory / "cgroup.event_control").write_text(f"{eventfd} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(eventfd)
        raise
    return eventfd
