"""Looks for memory of a session that is held by processes which no list shows.

Each of them forks the next and ends at once. So when the memory of the host has grown by more than
is seen, the session's processes stand still for some milliseconds, and all of them are listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from era_kernels.models import MIB
from era_kernels.sandbox.server.process_tree import (
    ProcessTree,
    ProcStat,
    newest_pid,
    read_proc_file,
)
from era_kernels.sandbox.server.stopped_processes import StoppedProcesses

MAX_UNEXPLAINED_FILES = 16 * MIB  # bytes of files in memory, beside those that are seen
MAX_GROWN_PAGES = 64 * MIB  # bytes of pages without a file, of all processes
MAX_STOP_SECONDS = 0.25  # seconds after which it is measured although some do not stand still
PAUSE_FACTOR = 20  # the next standstill follows after so many times as long as the last took
MAX_PAUSE = 2.0  # seconds: but never later
MAX_LOOKS_SECONDS = 0.25  # seconds of one check: who had no turn by then is the first in the next
_STEP = 0.001  # seconds


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What the processes of the host have, in bytes."""

    files: int  # in memory
    pages: int  # that belong to no file

    @classmethod
    def read(cls) -> HostMemory:
        """Returns it as it is now (blocking, briefly)."""
        lines = (line.split(b":") for line in read_proc_file("/proc/meminfo").splitlines())
        sizes = {name: int(rest.split()[0]) * 1024 for name, rest in lines}
        return cls(sizes.get(b"Shmem", 0), sizes.get(b"AnonPages", 0))


class HostLook:
    """The processes of all sessions at one moment, and what the host had then."""

    def __init__(self, tree: ProcessTree, inits: Collection[int]) -> None:
        """Lists them (blocking)."""
        self._tree = tree
        self._inits = inits
        self.memory = HostMemory.read()
        self._newest = newest_pid()
        self.by_init = tree.by_init(inits, is_fresh=True)
        self._seconds_left = MAX_LOOKS_SECONDS

    def is_whole(self) -> bool:
        """Returns whether all are in the list that have been there since (blocking, briefly).

        So it is while nobody forks; one that is in the list may else end before it is measured.
        """
        return self._newest == newest_pid() != b""

    @property
    def has_time(self) -> bool:
        """True while one more session may stand still."""
        return self._seconds_left > 0

    def note_standstill(self, seconds: float) -> None:
        """Notes how long a session stood still."""
        self._seconds_left -= seconds

    def list_again(self, init: int) -> list[ProcStat]:
        """Returns the processes of one session, as they are now (blocking)."""
        return self._tree.by_init(self._inits, is_fresh=True)[init]


class UnseenMemory:
    """Looks for such memory of one session."""

    def __init__(self, stopped: StoppedProcesses) -> None:
        """Takes what has the session stand still."""
        self._stopped = stopped
        # The least since all of the session was seen: files beside its own, and all pages.
        self._beside = HostMemory.read()
        self.last_look = 0.0  # `time.monotonic`
        self._next_look = 0.0

    def is_unexplained(self, host: HostMemory, files: int) -> bool:
        """Returns whether the session may have more than is seen; `files`: bytes of those seen."""
        beside = HostMemory(host.files - files, host.pages)
        self._beside = least = HostMemory(
            min(self._beside.files, beside.files), min(self._beside.pages, beside.pages)
        )
        if not self._stopped.can_stop_all or time.monotonic() < self._next_look:
            return False
        return (
            beside.files - least.files > MAX_UNEXPLAINED_FILES
            or beside.pages - least.pages > MAX_GROWN_PAGES
        )

    def note_all_seen(self, host: HostMemory, files: int) -> None:
        """Notes that all of the session was seen, with so many bytes of files."""
        self._beside = HostMemory(host.files - files, host.pages)

    def look(
        self,
        find_processes: Callable[[], Collection[ProcStat]],
        measure: Callable[[Collection[ProcStat]], None],
    ) -> bool:
        """Has all processes measured while they stand still; returns False when not all do.

        Both take what `StoppedProcesses.stand_still` does (blocking, briefly).
        """
        began, holder = time.monotonic(), object()
        try:
            steps = self._stopped.stand_still(holder, find_processes, MAX_STOP_SECONDS)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    still = end.value
                    break
                time.sleep(_STEP)
            if still.is_all:
                measure(still.processes)
            return bool(still.is_all)
        finally:
            self._stopped.resume(holder)
            now = time.monotonic()
            self.last_look = now
            self._next_look = now + min(MAX_PAUSE, PAUSE_FACTOR * (now - began))
