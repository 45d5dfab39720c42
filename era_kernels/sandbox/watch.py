"""What sandboxes use, looked at from outside: for the limits that no group of the kernel enforces.

One look serves all sandboxes. One that did nothing since the last costs some microseconds for each
of its processes; only where something changed is more counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.models import Limits
from era_kernels.sandbox.population import Population, Process, read
from era_kernels.sandbox.sizes import sizes

log = logging.getLogger(__name__)

MIB = 1024 * 1024
INTERVAL = 0.5  # seconds between two looks
SHARE = 4  # a pause lasts at least so many times as long as the look before it
WALK = 0.05  # seconds of a look for all workspaces together
LEAST_WALK = 0.002  # seconds of it for each
MEASURINGS = 2  # of a workspace after a change: the file system may count some of it later
REST = 20  # a workspace is left alone so many times as long as it took to measure
BESIDE = 512 * MIB  # that all else may take where the workspace may have less: packages are large
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class _Activity:
    """What changes when a sandbox does anything."""

    processes: int
    threads: int
    cpu: int  # nanoseconds
    resident: int  # bytes; what is shared counts for each


class Disk:
    """Directories that may take so many bytes together, measured bit by bit."""

    def __init__(self, name: str, roots: Sequence[Path], bound: int) -> None:
        """`name` is what they are called when they take more."""
        self.next_walk = 0.0  # they are left alone until then
        self._name = name
        self._roots = roots
        self._bound = bound
        self._due = 0  # times that they are to be measured
        self._walk: Iterator[int] | None = None
        self._walked = 0.0  # seconds that the present or last measuring took

    def touch(self) -> None:
        """Something may have changed."""
        self._due = MEASURINGS

    def exceeded(self, patience: float) -> str | None:
        """Do they take more, as far as they are measured? In words."""
        began = time.monotonic()
        if self._walk is None:
            if not self._due or began < self.next_walk:
                return None
            self._walk, self._walked = sizes(*self._roots), 0.0
            self._due -= 1
        for total in self._walk:
            if total > self._bound:
                self._walk = None
                return f"{self._name} larger than {self._bound // MIB} MB"
            if time.monotonic() - began > patience:
                self._walked += time.monotonic() - began
                return None
        self._walk = None
        present = time.monotonic()
        self.next_walk = present + REST * (self._walked + present - began)
        return None


class Watch:
    """The limits of one sandbox, whose init has that pid on the host."""

    def __init__(
        self,
        pid: int,
        workspace: Path,
        limits: Limits,
        enforced: Collection[str] = (),
        beside: Sequence[Path] = (),
    ) -> None:
        """`enforced` names limits that need no look, `beside` is where the code writes, too."""
        self.pid = pid
        self._processes = None if "processes" in enforced else limits.processes
        self._memory = None if "memory" in enforced else limits.memory
        self.disks: tuple[Disk, ...] = ()
        if limits.workspace is not None:
            self.disks = (
                Disk("workspace", [workspace], limits.workspace),
                Disk("files beside the workspace", beside, max(limits.workspace, BESIDE)),
            )
        self._last: _Activity | None = None

    def exceeded(self, family: Collection[Process], patience: float = WALK) -> str | None:
        """Which limit is exceeded, in words; None when all is well (blocking).

        `patience`: seconds to measure files; what is not done goes on in the next look.
        """
        activity = _activity(family)
        if activity != self._last:
            self._last = activity
            for disk in self.disks:
                disk.touch()
            if self._processes is not None and activity.threads - 1 > self._processes:
                return f"more than {self._processes} processes"
            if self._memory is not None and _is_more(family, activity, self._memory):
                return out_of_memory(self._memory)
        found = (disk.exceeded(patience / len(self.disks)) for disk in self.disks)
        return next((why for why in found if why is not None), None)


class Watcher:
    """Looks at all sandboxes, in one thread, one after the other."""

    def __init__(self) -> None:
        self._watches: dict[Watch, Callable[[str], None]] = {}
        self._population = Population()
        self._task: asyncio.Task[None] | None = None

    def add(self, watch: Watch, end: Callable[[str], None]) -> None:
        """From now on: call `end` with the limit that is exceeded, until it is discarded."""
        self._watches[watch] = end
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def discard(self, watch: Watch) -> None:
        """The sandbox ends; unknown ones are fine."""
        self._watches.pop(watch, None)

    async def aclose(self) -> None:
        """Look no more; a second call is fine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = INTERVAL
        while True:
            await asyncio.sleep(pause)
            if not self._watches:
                continue
            began = time.monotonic()
            try:
                findings = await asyncio.to_thread(self.look, list(self._watches))
            except Exception:  # one look that fails must not be the last
                log.exception("a look at the sandboxes failed")
                findings = []
            for watch, why in findings:
                if watch in self._watches:
                    self._watches[watch](why)
            pause = max(INTERVAL, SHARE * (time.monotonic() - began))

    def look(self, watches: list[Watch]) -> list[tuple[Watch, str]]:
        """Those that exceed a limit, and which (blocking)."""
        families = self._population.families([watch.pid for watch in watches])
        patience = max(LEAST_WALK, WALK / len(watches))
        found = ((watch, watch.exceeded(families[watch.pid], patience)) for watch in watches)
        return [(watch, why) for watch, why in found if why is not None]


def out_of_memory(bound: int) -> str:
    """The limit of memory as the cause of an end."""
    return f"out of memory at {bound // MIB} MB"


def _activity(family: Collection[Process]) -> _Activity:
    return _Activity(
        processes=len(family),
        threads=sum(one.threads for one in family),
        cpu=sum(one.cpu for one in family),
        resident=sum(one.resident for one in family),
    )


def _is_more(family: Collection[Process], activity: _Activity, bound: int) -> bool:
    """Do they use more? What they share with others counts in part, what no one maps as well."""
    hidden = sum(_hidden(one.pid) for one in family)
    if activity.resident + hidden <= bound:
        return False
    return sum(_share(one.pid) for one in family) + hidden > bound


def _share(pid: int) -> int:
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _hidden(pid: int) -> int:
    """Files in memory that a process holds open; in pages that it maps they count twice."""
    total = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    total += os.stat(path).st_blocks * _BLOCK
    return total
