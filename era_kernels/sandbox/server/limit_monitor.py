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
from era_kernels.safe_fs.usage import running_totals
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat, read_proc_file

log = logging.getLogger(__name__)

MIB = 1024 * 1024
CHECK_INTERVAL = 0.5  # seconds between two looks
PAUSE_FACTOR = 4  # a pause lasts at least so many times as long as the look before it
MEASURE_SECONDS = 0.05  # seconds of a look for all workspaces together
MIN_MEASURE_SECONDS = 0.002  # seconds of it for each
MEASUREMENTS_PER_CHANGE = (
    2  # of a workspace after a change: the file system may count some of it later
)
REST_FACTOR = 20  # a workspace is left alone so many times as long as it took to measure
MIN_OTHER_WRITABLE = (
    512 * MIB
)  # that all else may take where the workspace may have less: packages are large
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class _Activity:
    """What changes when a sandbox does anything."""

    processes: int
    threads: int
    cpu_ns: int  # nanoseconds
    resident_bytes: int  # bytes; what is shared counts for each


class DiskQuota:
    """Directories that may take so many bytes together, measured bit by bit."""

    def __init__(self, name: str, roots: Sequence[Path], max_bytes: int) -> None:
        """`name` is what they are called when they take more."""
        self.next_measurement = 0.0  # they are left alone until then
        self._name = name
        self._roots = roots
        self._max_bytes = max_bytes
        self._pending_measurements = 0  # times that they are to be measured
        self._measurement: Iterator[int] | None = None
        self._measured_seconds = 0.0  # seconds that the present or last measuring took

    def mark_dirty(self) -> None:
        """Something may have changed."""
        self._pending_measurements = MEASUREMENTS_PER_CHANGE

    def find_excess(self, time_budget: float) -> str | None:
        """Do they take more, as far as they are measured? In words."""
        began = time.monotonic()
        if self._measurement is None:
            if not self._pending_measurements or began < self.next_measurement:
                return None
            self._measurement, self._measured_seconds = running_totals(*self._roots), 0.0
            self._pending_measurements -= 1
        for total in self._measurement:
            if total > self._max_bytes:
                self._measurement = None
                return f"{self._name} larger than {self._max_bytes // MIB} MB"
            if time.monotonic() - began > time_budget:
                self._measured_seconds += time.monotonic() - began
                return None
        self._measurement = None
        now = time.monotonic()
        self.next_measurement = now + REST_FACTOR * (self._measured_seconds + now - began)
        return None


class MonitoredSandbox:
    """The limits of one sandbox, whose init has that pid on the host."""

    def __init__(
        self,
        pid: int,
        workspace: Path,
        limits: Limits,
        kernel_enforced: Collection[str] = (),
        other_writable: Sequence[Path] = (),
    ) -> None:
        """`enforced` names limits that need no look, `beside` is where the code writes, too."""
        self.pid = pid
        self._processes = None if "processes" in kernel_enforced else limits.processes
        self._memory = None if "memory" in kernel_enforced else limits.memory
        self.disk_quotas: tuple[DiskQuota, ...] = ()
        if limits.workspace is not None:
            self.disk_quotas = (
                DiskQuota("workspace", [workspace], limits.workspace),
                DiskQuota(
                    "files beside the workspace",
                    other_writable,
                    max(limits.workspace, MIN_OTHER_WRITABLE),
                ),
            )
        self._last_activity: _Activity | None = None

    def find_excess(
        self, processes: Collection[ProcStat], time_budget: float = MEASURE_SECONDS
    ) -> str | None:
        """Which limit is exceeded, in words; None when all is well (blocking).

        `patience`: seconds to measure files; what is not done goes on in the next look.
        """
        activity = _activity(processes)
        if activity != self._last_activity:
            self._last_activity = activity
            for disk in self.disk_quotas:
                disk.mark_dirty()
            if self._processes is not None and activity.threads - 1 > self._processes:
                return f"more than {self._processes} processes"
            if self._memory is not None and _exceeds_memory(processes, activity, self._memory):
                return describe_oom(self._memory)
        found = (disk.find_excess(time_budget / len(self.disk_quotas)) for disk in self.disk_quotas)
        return next((why for why in found if why is not None), None)


class LimitMonitor:
    """Looks at all sandboxes, in one thread, one after the other."""

    def __init__(self) -> None:
        self._sandboxes: dict[MonitoredSandbox, Callable[[str], None]] = {}
        self._process_tree = ProcessTree()
        self._task: asyncio.Task[None] | None = None

    def add(self, sandbox: MonitoredSandbox, on_exceeded: Callable[[str], None]) -> None:
        """From now on: call `end` with the limit that is exceeded, until it is discarded."""
        self._sandboxes[sandbox] = on_exceeded
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def discard(self, sandbox: MonitoredSandbox) -> None:
        """The sandbox ends; unknown ones are fine."""
        self._sandboxes.pop(sandbox, None)

    async def aclose(self) -> None:
        """Look no more; a second call is fine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = CHECK_INTERVAL
        while True:
            await asyncio.sleep(pause)
            if not self._sandboxes:
                continue
            began = time.monotonic()
            try:
                findings = await asyncio.to_thread(self.check_once, list(self._sandboxes))
            except Exception:  # one look that fails must not be the last
                log.exception("a look at the sandboxes failed")
                findings = []
            for sandbox, why in findings:
                if sandbox in self._sandboxes:
                    self._sandboxes[sandbox](why)
            pause = max(CHECK_INTERVAL, PAUSE_FACTOR * (time.monotonic() - began))

    def check_once(self, sandboxes: list[MonitoredSandbox]) -> list[tuple[MonitoredSandbox, str]]:
        """Those that exceed a limit, and which (blocking)."""
        by_init = self._process_tree.by_init([watch.pid for watch in sandboxes])
        time_budget = max(MIN_MEASURE_SECONDS, MEASURE_SECONDS / len(sandboxes))
        found = ((watch, watch.find_excess(by_init[watch.pid], time_budget)) for watch in sandboxes)
        return [(watch, why) for watch, why in found if why is not None]


def describe_oom(max_bytes: int) -> str:
    """The limit of memory as the cause of an end."""
    return f"out of memory at {max_bytes // MIB} MB"


def _activity(processes: Collection[ProcStat]) -> _Activity:
    return _Activity(
        processes=len(processes),
        threads=sum(one.threads for one in processes),
        cpu_ns=sum(one.cpu_ns for one in processes),
        resident_bytes=sum(one.resident_bytes for one in processes),
    )


def _exceeds_memory(processes: Collection[ProcStat], activity: _Activity, max_bytes: int) -> bool:
    """Do they use more? What they share with others counts in part, what no one maps as well."""
    hidden = sum(_memfd_bytes(one.pid) for one in processes)
    if activity.resident_bytes + hidden <= max_bytes:
        return False
    return sum(_proportional_bytes(one.pid) for one in processes) + hidden > max_bytes


def _proportional_bytes(pid: int) -> int:
    for line in read_proc_file(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _memfd_bytes(pid: int) -> int:
    """Files in memory that a process holds open; in pages that it maps they count twice."""
    total = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names, not paths
            path = f"/proc/{pid}/fd/{name}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - text, not a path
                    total += os.stat(path).st_blocks * _BLOCK  # noqa: PTH116 - by descriptor
    return total
