"""Ends the largest session before all sessions together use more memory than the server may give.

A check far from the bound reads one file, whatever the number of sessions, where control groups
count memory; else it costs some microseconds for each process. The nearer the bound, the sooner
the next check.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from era_kernels.models import GIB, MIB
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup
from era_kernels.sandbox.server.files_in_memory import FilesInMemory
from era_kernels.sandbox.server.process_memory import (
    Activity,
    bytes_beside_pages,
    proportional_bytes,
)
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat
from era_kernels.sandbox.server.socket_memory import SocketMemory

log = logging.getLogger(__name__)

END_PERCENT = 95  # of the bound: from there on the largest session is ended
MAX_PAUSE, MIN_PAUSE = 0.5, 0.005  # seconds between two checks
FASTEST_GROWTH = 4 * 1024**3  # bytes in a second that sessions are expected to take at most
PAUSE_FACTOR = 4  # a pause lasts at least so many times as long as the check before it
MAX_PAUSE_AFTER = 2.0  # seconds: but never longer, whatever sessions do to make a check long

HOST_OOM = "out of memory: this server's host or container has none left"


def describe_server_excess(max_bytes: int) -> str:
    """Returns the cause of an end by the monitor."""
    return (
        f"out of memory: all sessions together use {END_PERCENT} % of {_format_size(max_bytes)} "
        "(server_memory), and this one used the most"
    )


def describe_server_oom(max_bytes: int) -> str:
    """Returns the cause of an end by Linux, which kills the largest process."""
    return (
        f"out of memory: all sessions together used {_format_size(max_bytes)} (server_memory), "
        "and this one had the largest process"
    )


@dataclass(eq=False, slots=True)
class SessionMemory:
    """The memory of one session: of its control group, else of its processes; `init`: a pid."""

    init: int
    group: MemoryGroup | None = None
    activity: Activity | None = None  # when its processes were measured
    processes_bytes: int = 0  # what they used then
    is_exact: bool = False  # else pages that sessions share count in each
    files: FilesInMemory = field(default_factory=FilesInMemory)
    sockets: SocketMemory | None = None  # where its network is its own; measured by LimitMonitor

    @property
    def uncounted_bytes(self) -> int:
        """What neither groups nor processes show."""
        return 0 if self.sockets is None else self.sockets.size


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The bytes that all sessions use together, and each of them where it was measured."""

    total: int
    by_session: dict[SessionMemory, int] = field(default_factory=dict)


class AllSessionsMemoryMonitor:
    """Checks the memory of all sessions together, in a thread of its own."""

    def __init__(self, max_bytes: int | None, server_group: MemoryGroup | None = None) -> None:
        """Takes the bound, None for none, and the group that counts all sessions, if there is one.

        The bound of the group itself is the last resort.
        """
        self._max_bytes = max_bytes
        self._threshold = 0 if max_bytes is None else max_bytes * END_PERCENT // 100
        self._server_group = server_group
        self._sessions: dict[SessionMemory, Callable[[str], None]] = {}
        self._process_tree = ProcessTree()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="server-memory")
        self._task: asyncio.Task[None] | None = None

    def add(self, session: SessionMemory, on_exceeded: Callable[[str], None]) -> None:
        """Counts the session until it is discarded; calls `on_exceeded` when it is to end."""
        self._sessions[session] = on_exceeded
        if self._task is None and self._max_bytes is not None:
            self._task = asyncio.create_task(self._run(self._max_bytes))

    def discard(self, session: SessionMemory) -> None:
        """Counts a session no more, whose memory is about to be free; an unknown one is fine."""
        self._sessions.pop(session, None)

    async def aclose(self) -> None:
        """Stops the checks; a second call is fine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._executor.shutdown(wait=False)

    async def _run(self, max_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        pause = MAX_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = MAX_PAUSE
            if not self._sessions:
                continue
            try:
                use, seconds = await loop.run_in_executor(
                    self._executor, self._measure_timed, tuple(self._sessions)
                )
            except Exception:  # one check that fails must not be the last
                log.exception("the memory of the sessions could not be measured")
                continue
            self._end_largest(use, max_bytes)
            pause = max(self.pause_before_next(use), min(MAX_PAUSE_AFTER, PAUSE_FACTOR * seconds))

    def _measure_timed(self, sessions: Collection[SessionMemory]) -> tuple[MemoryUse, float]:
        began = time.monotonic()
        return self.measure(sessions), time.monotonic() - began

    def pause_before_next(self, use: MemoryUse) -> float:
        """Returns in how many seconds the sessions can be at the bound at the earliest."""
        seconds = (self._threshold - use.total) / FASTEST_GROWTH
        return min(MAX_PAUSE, max(MIN_PAUSE, seconds))

    def _end_largest(self, use: MemoryUse, max_bytes: int) -> None:
        """Ends one session where those that are still there use too much together.

        One that has ended meanwhile does not count: its memory is on its way back, so that no
        other ends for the same excess.
        """
        living = {one: size for one, size in use.by_session.items() if one in self._sessions}
        if living and sum(living.values()) >= self._threshold:
            largest = max(living, key=lambda one: living[one])
            extra = {"bytes": living[largest], "of": sum(living.values())}
            log.warning("all sessions together use too much memory", extra=extra)
            self._sessions.pop(largest)(describe_server_excess(max_bytes))

    def measure(self, sessions: Collection[SessionMemory]) -> MemoryUse:
        """Returns what the sessions use: each alone only where they may use too much (blocking)."""
        if self._server_group is None:
            return self._measure_processes(sessions)
        uncounted = sum(one.uncounted_bytes for one in sessions)
        total = self._server_group.total_bytes() + uncounted
        if total > self._threshold // 2:  # else files that Linux keeps in memory do not matter
            total = self._server_group.used_bytes() + uncounted
        if total < self._threshold:
            return MemoryUse(total)
        used = {
            one: one.group.used_bytes() + one.uncounted_bytes
            for one in sessions
            if one.group is not None
        }
        return MemoryUse(sum(used.values()), used)

    def _measure_processes(self, sessions: Collection[SessionMemory]) -> MemoryUse:
        """Measures the processes; those of idle sessions again only before one is ended."""
        by_init = self._process_tree.by_init([one.init for one in sessions])
        for one in sessions:
            activity = Activity.of(by_init[one.init])
            if activity != one.activity:
                beside = bytes_beside_pages(by_init[one.init], one.init, one.files)
                one.activity, one.is_exact = activity, False
                one.processes_bytes = activity.resident_bytes + beside + one.uncounted_bytes
        for remeasured in ([], [one for one in sessions if not one.is_exact], sessions):
            for one in remeasured:
                one.processes_bytes = _exact_bytes(by_init[one.init], one)
                one.is_exact = True
            total = sum(one.processes_bytes for one in sessions)
            if total < self._threshold:
                return MemoryUse(total)
        return MemoryUse(total, {one: one.processes_bytes for one in sessions})


def _exact_bytes(processes: Sequence[ProcStat], session: SessionMemory) -> int:
    beside = bytes_beside_pages(processes, session.init, session.files)
    return proportional_bytes(processes, session.init) + beside + session.uncounted_bytes


def _format_size(size: int) -> str:
    """Returns a size for a sentence, such as `12 GiB`, `18.8 GiB` or `600 MiB`."""
    if size < GIB:
        return f"{size // MIB} MiB"
    return f"{round(size / GIB, 1):g} GiB"
