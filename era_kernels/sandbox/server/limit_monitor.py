"""Checks the limits of sandboxes that no control group enforces.

One check covers all sandboxes. A sandbox that was idle since the last check costs some
microseconds for each of its processes; only where something changed is more measured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from era_kernels.models import Limits
from era_kernels.safe_fs.usage import running_totals
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup
from era_kernels.sandbox.server.process_memory import Activity, exceeds
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat
from era_kernels.sandbox.server.server_memory import ServerMemoryMonitor, SessionMemory

log = logging.getLogger(__name__)

MIB = 1024 * 1024
CHECK_INTERVAL = 0.5  # seconds between two checks
PAUSE_FACTOR = 4  # a pause lasts at least so many times as long as the check before it
MEASURE_SECONDS = 0.05  # seconds of a check for all workspaces together
MIN_MEASURE_SECONDS = 0.002  # seconds of a check for each workspace
MEASUREMENTS_PER_CHANGE = 2  # of a workspace: file systems may count blocks only later
REST_FACTOR = 20  # a workspace is not measured for so many times as long as the measuring took
MIN_OTHER_WRITABLE = 512 * MIB  # for packages and caches, also when the workspace may have less


class DiskQuota:
    """Directories that may take `max_bytes` together, measured in steps."""

    def __init__(self, name: str, roots: Sequence[Path], max_bytes: int) -> None:
        """Takes the name of the directories for messages, and where they are."""
        self.next_measurement = 0.0  # `time.monotonic`: nothing is measured before
        self._name = name
        self._roots = roots
        self._max_bytes = max_bytes
        self._pending_measurements = 0  # number of measurements still to do
        self._measurement: Iterator[int] | None = None
        self._measured_seconds = 0.0  # seconds that the current or last one took

    def mark_dirty(self) -> None:
        """Requests measurements: something may have changed."""
        self._pending_measurements = MEASUREMENTS_PER_CHANGE

    def find_excess(self, time_budget: float) -> str | None:
        """Returns a message when they take more, as far as they are measured, else None.

        `time_budget`: seconds after which the measuring pauses until the next call.
        """
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
    """The limits of one sandbox; `pid` is that of its init on the host."""

    def __init__(
        self,
        pid: int,
        workspace: Path,
        limits: Limits,
        cgroup_enforced: Collection[str] = (),
        other_writable: Sequence[Path] = (),
        memory_group: MemoryGroup | None = None,
    ) -> None:
        """Takes the names of limits that need no check, and more directories that code writes.

        `memory_group` counts the sandbox's memory, where there is one.
        """
        self.pid = pid
        self.memory = SessionMemory(pid, memory_group)
        self._processes = None if "processes" in cgroup_enforced else limits.processes
        self._memory = None if "memory" in cgroup_enforced else limits.memory
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
        self._last_activity: Activity | None = None

    def find_excess(
        self, processes: Collection[ProcStat], time_budget: float = MEASURE_SECONDS
    ) -> str | None:
        """Returns a message about the limit that is exceeded, or None (blocking).

        `time_budget`: seconds to measure files; the next check continues a measurement.
        """
        activity = Activity.of(processes)
        if activity != self._last_activity:
            self._last_activity = activity
            for disk in self.disk_quotas:
                disk.mark_dirty()
            if self._processes is not None and activity.threads - 1 > self._processes:
                return f"more than {self._processes} processes"
            if self._memory is not None and exceeds(
                processes, self.pid, activity.resident_bytes, self._memory
            ):
                return describe_oom(self._memory)
        found = (disk.find_excess(time_budget / len(self.disk_quotas)) for disk in self.disk_quotas)
        return next((why for why in found if why is not None), None)


class LimitMonitor:
    """Checks all sandboxes, in one thread, one after the other."""

    def __init__(self, server_memory_monitor: ServerMemoryMonitor) -> None:
        """Takes what checks their memory together, and hands all sandboxes on to it."""
        self._server_memory_monitor = server_memory_monitor
        self._sandboxes: dict[MonitoredSandbox, Callable[[str], None]] = {}
        self._process_tree = ProcessTree()
        self._task: asyncio.Task[None] | None = None

    def add(self, sandbox: MonitoredSandbox, on_exceeded: Callable[[str], None]) -> None:
        """Checks the sandbox until it is discarded; calls `on_exceeded` with a message."""
        self._sandboxes[sandbox] = on_exceeded
        self._server_memory_monitor.add(sandbox.memory, on_exceeded)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def discard(self, sandbox: MonitoredSandbox) -> None:
        """Stops checking a sandbox, which ends; an unknown one is fine."""
        self._sandboxes.pop(sandbox, None)
        self._server_memory_monitor.discard(sandbox.memory)

    async def aclose(self) -> None:
        """Stops all checks; a second call is fine."""
        await self._server_memory_monitor.aclose()
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
            except Exception:  # one check that fails must not be the last
                log.exception("a look at the sandboxes failed")
                findings = []
            for sandbox, why in findings:
                if sandbox in self._sandboxes:
                    self._sandboxes[sandbox](why)
            pause = max(CHECK_INTERVAL, PAUSE_FACTOR * (time.monotonic() - began))

    def check_once(self, sandboxes: list[MonitoredSandbox]) -> list[tuple[MonitoredSandbox, str]]:
        """Returns the sandboxes that exceed a limit, with messages (blocking)."""
        by_init = self._process_tree.by_init([one.pid for one in sandboxes])
        time_budget = max(MIN_MEASURE_SECONDS, MEASURE_SECONDS / len(sandboxes))
        found = ((one, one.find_excess(by_init[one.pid], time_budget)) for one in sandboxes)
        return [(one, why) for one, why in found if why is not None]


def describe_oom(max_bytes: int) -> str:
    """Returns the cause of an end by the memory limit."""
    return f"out of memory at {max_bytes // MIB} MB"
