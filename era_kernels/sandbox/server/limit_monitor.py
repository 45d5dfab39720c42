"""Checks the limits of sandboxes that no control group enforces.

One check covers all sandboxes. A sandbox that was idle since the last check costs some
microseconds for each of its processes; only where something changed is more measured. The disk is
watched beside that, by `DiskMonitor`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from era_kernels.models import MIB, Limits
from era_kernels.sandbox.server.all_sessions_memory import AllSessionsMemoryMonitor, SessionMemory
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup
from era_kernels.sandbox.server.disk_monitor import DiskMonitor
from era_kernels.sandbox.server.disk_reserve import DiskReserve
from era_kernels.sandbox.server.file_locks import sessions_past_bound
from era_kernels.sandbox.server.files_in_memory import FilesInMemory
from era_kernels.sandbox.server.process_memory import Activity, exceeds
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat
from era_kernels.sandbox.server.session_disk import SessionDisk, workspace_quotas
from era_kernels.sandbox.server.socket_memory import SocketMemory
from era_kernels.sandbox.server.stop_all import StopAll
from era_kernels.sandbox.server.stopped_processes import StoppedProcesses
from era_kernels.sandbox.server.unseen_memory import HostLook, HostMemory, UnseenMemory
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses

log = logging.getLogger(__name__)

CHECK_INTERVAL = 0.5  # seconds between two checks
MAX_QUICK = 64  # processes of which the event loop itself asks whether they have rested
PAUSE_FACTOR = 4  # a pause lasts at least so many times as long as the check before it
MAX_PAUSE = 2.0  # seconds: but never longer, whatever sessions do to make a check long


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
        *,
        groups: Sequence[Path] = (),
        has_network: bool = False,
        stop_all: StopAll | None = None,
    ) -> None:
        """Takes the names of limits that need no check, and more directories that code writes.

        `memory_group` counts the sandbox's memory, where there is one; `groups` are all that it
        has. `has_network` tells that its network is its own.
        """
        stopped = StoppedProcesses(UnseenProcesses(pid, groups), stop_all)
        self.pid = pid
        self.memory = SessionMemory(pid, memory_group)
        self.memory.sockets = SocketMemory(pid) if has_network else None
        self._processes = None if "processes" in cgroup_enforced else limits.processes
        self._memory = limits.memory
        self._is_memory_enforced = "memory" in cgroup_enforced
        self.disk: SessionDisk | None = None
        if limits.workspace is not None:
            quotas = workspace_quotas(workspace, other_writable, limits.workspace)
            self.disk = SessionDisk(pid, quotas, stopped)
        self._files = FilesInMemory()
        self._unseen = UnseenMemory(stopped)
        self._last_activity: Activity | None = None

    @property
    def last_look(self) -> float:
        """When it stood still last, so that all of its memory was seen (`time.monotonic`)."""
        return self._unseen.last_look

    def has_unexplained(self, host: HostMemory) -> bool:
        """Returns whether it may use more memory than is seen of it."""
        is_checked = self._memory is not None and not self._is_memory_enforced
        return is_checked and self._unseen.is_unexplained(host, self._files.total)

    def find_excess(
        self, processes: Collection[ProcStat], look: HostLook | None = None
    ) -> str | None:
        """Returns a message about the limit that is exceeded, or None (blocking).

        `look` was made with the processes where some session has unexplained memory.
        """
        activity = Activity.of(processes)
        is_unexplained = look is not None and self.has_unexplained(look.memory)
        if activity != self._last_activity or is_unexplained:
            self._last_activity = activity
            if self._processes is not None and activity.threads - 1 > self._processes:
                return f"more than {self._processes} processes"
            if self.memory.sockets is not None:
                self.memory.sockets.measure()
                if self.memory.sockets.excess is not None:
                    return self.memory.sockets.excess
            if self._memory is not None and self._exceeds_memory(
                processes, activity.resident_bytes, self._memory
            ):
                return describe_oom(self._memory)
            if look is not None and self._exceeds_unseen(look):
                return describe_oom(self._memory or 0)
        return None

    def _exceeds_unseen(self, look: HostLook) -> bool:
        """Returns whether processes that no list shows have the sandbox use too much memory."""
        if not self.has_unexplained(look.memory):
            return False
        if look.is_whole():
            self._unseen.note_all_seen(look.memory, self._files.total)
            return False
        if not look.has_time:
            return False
        exceeds_most = False

        def measure(processes: Collection[ProcStat]) -> None:
            nonlocal exceeds_most
            host, resident = HostMemory.read(), sum(one.resident_bytes for one in processes)
            exceeds_most = self._exceeds_memory(processes, resident, self._memory or 0)
            self._unseen.note_all_seen(host, self._files.total)

        began = time.monotonic()
        self._unseen.look(lambda: look.list_again(self.pid), measure)
        look.note_standstill(time.monotonic() - began)
        return exceeds_most

    def _exceeds_memory(self, processes: Collection[ProcStat], resident: int, most: int) -> bool:
        """Returns whether the sandbox uses more than `most`, as far as no group enforces it."""
        uncounted, group = self.memory.uncounted_bytes, self.memory.group
        if not self._is_memory_enforced:
            return exceeds(processes, self.pid, resident, most - uncounted, self._files)
        return uncounted > 0 and group is not None and group.used_bytes() + uncounted > most


class LimitMonitor:
    """Checks all sandboxes, in one thread, one after the other."""

    def __init__(
        self,
        all_sessions_memory_monitor: AllSessionsMemoryMonitor,
        disk_reserve: DiskReserve | None = None,
    ) -> None:
        """Takes what checks their memory together, and the free space that they leave."""
        self._all_sessions_memory_monitor = all_sessions_memory_monitor
        self._disk_monitor = DiskMonitor(disk_reserve)
        self._sandboxes: dict[MonitoredSandbox, Callable[[str], None]] = {}
        self._process_tree = ProcessTree()
        self._look_tree = ProcessTree()  # looks between those that `have_rested` goes by
        self._task: asyncio.Task[None] | None = None

    def add(self, sandbox: MonitoredSandbox, on_exceeded: Callable[[str], None]) -> None:
        """Checks the sandbox until it is discarded; calls `on_exceeded` with a message."""
        self._sandboxes[sandbox] = on_exceeded
        self._all_sessions_memory_monitor.add(sandbox.memory, on_exceeded)
        if sandbox.disk is not None:
            self._disk_monitor.add(sandbox.disk, on_exceeded)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def discard(self, sandbox: MonitoredSandbox) -> None:
        """Stops checking a sandbox, which ends; an unknown one is fine."""
        self._sandboxes.pop(sandbox, None)
        self._all_sessions_memory_monitor.discard(sandbox.memory)
        if sandbox.disk is not None:
            self._disk_monitor.discard(sandbox.disk)

    async def aclose(self) -> None:
        """Stops all checks; a second call is fine."""
        await self._all_sessions_memory_monitor.aclose()
        await self._disk_monitor.aclose()
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
            if self._process_tree.size <= MAX_QUICK and self._have_rested(self._sandboxes):
                pause = CHECK_INTERVAL
                continue  # a thread would take longer to be woken
            try:
                findings = await asyncio.to_thread(self.check_once, list(self._sandboxes))
            except Exception:  # one check that fails must not be the last
                log.exception("a look at the sandboxes failed")
                findings = []
            for sandbox, why in findings:
                if sandbox in self._sandboxes:
                    self._sandboxes[sandbox](why)
            pause = pause_after(time.monotonic() - began)

    def _have_rested(self, sandboxes: Collection[MonitoredSandbox]) -> bool:
        """Returns whether nothing has changed for any of them (blocking, briefly)."""
        return self._process_tree.have_rested(
            [one.pid for one in sandboxes]
        ) and not _has_unexplained(sandboxes)

    def check_once(self, sandboxes: list[MonitoredSandbox]) -> list[tuple[MonitoredSandbox, str]]:
        """Returns the sandboxes that exceed a limit, with messages (blocking)."""
        inits = [one.pid for one in sandboxes]
        look = HostLook(self._look_tree, inits) if _has_unexplained(sandboxes) else None
        if look is None and self._process_tree.have_rested(inits):
            return []
        by_init = self._process_tree.by_init(inits)
        holders = sessions_past_bound(by_init)
        listed = by_init if look is None else look.by_init
        in_turn = sorted(sandboxes, key=lambda one: one.last_look)
        found = (
            (one, holders.get(one.pid) or one.find_excess(listed[one.pid], look)) for one in in_turn
        )
        return [(one, why) for one, why in found if why is not None]


def _has_unexplained(sandboxes: Collection[MonitoredSandbox]) -> bool:
    host = HostMemory.read()
    found = [one.has_unexplained(host) for one in sandboxes]  # each notes what there was least
    return any(found)


def pause_after(seconds: float) -> float:
    """Returns the seconds until the next check, when the last took so many."""
    return max(CHECK_INTERVAL, min(MAX_PAUSE, PAUSE_FACTOR * seconds))


class Monitoring:
    """Has one sandbox checked while its processes run; without a monitor does nothing."""

    def __init__(self, monitor: LimitMonitor | None) -> None:
        self._monitor = monitor
        self._sandbox: MonitoredSandbox | None = None

    def start(
        self, make_sandbox: Callable[[], MonitoredSandbox], on_exceeded: Callable[[str], None]
    ) -> None:
        """Begins; `on_exceeded` is called with a message about the limit."""
        if self._monitor is not None:
            self._sandbox = make_sandbox()
            self._monitor.add(self._sandbox, on_exceeded)

    def stop(self) -> None:
        """Ends the checks; a second call is fine."""
        if self._monitor is not None and self._sandbox is not None:
            self._monitor.discard(self._sandbox)


def describe_oom(max_bytes: int) -> str:
    """Returns the cause of an end by the memory limit."""
    return f"out of memory at {max_bytes // MIB} MB"
