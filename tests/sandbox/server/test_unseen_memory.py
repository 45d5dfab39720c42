"""Memory that no list of processes shows is looked for where something is unexplained."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from era_kernels.models import MIB, Limits
from era_kernels.sandbox.server import limit_monitor, unseen_memory
from era_kernels.sandbox.server.all_sessions_memory import AllSessionsMemoryMonitor
from era_kernels.sandbox.server.limit_monitor import LimitMonitor, MonitoredSandbox
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat, read_stat
from era_kernels.sandbox.server.stop_all import StopAll
from era_kernels.sandbox.server.stopped_processes import StoppedProcesses
from era_kernels.sandbox.server.unseen_memory import HostLook, HostMemory, UnseenMemory
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses
from tests.waiting import wait_until


class StopsAll(StopAll):
    """Answers that all have been stopped."""

    def __init__(self, *, answer: bool = True) -> None:
        self.is_possible = True
        self.asked = 0
        self._answer = answer

    def ask(self, on_late: object) -> bool:
        self.asked += 1
        return self._answer


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[HostMemory]:
    """What the host has: the last one."""
    found = [HostMemory(500 * MIB, 900 * MIB)]
    monkeypatch.setattr(HostMemory, "read", lambda: found[-1])
    return found


def new_stopped(init: int, stop_all: StopAll | None) -> StoppedProcesses:
    return StoppedProcesses(UnseenProcesses(init), stop_all)


def test_what_is_unexplained(host: list[HostMemory]) -> None:
    """What the session is seen to have explains it, and what the host has had less of does not."""
    unseen = UnseenMemory(new_stopped(0, StopsAll()))

    def is_unexplained(files: int, pages: int, seen: int = 0) -> bool:
        return unseen.is_unexplained(HostMemory(files * MIB, pages * MIB), seen * MIB)

    assert not is_unexplained(510, 950)
    assert is_unexplained(520, 950)  # little by little
    assert not is_unexplained(520, 950, seen=10)
    assert is_unexplained(500, 970)
    assert not is_unexplained(400, 870)  # others have let go of it
    assert is_unexplained(420, 870)
    unseen.note_all_seen(HostMemory(420 * MIB, 870 * MIB), 0)
    assert not is_unexplained(430, 930)
    assert HostLook(ProcessTree(), [os.getpid()]).by_init[os.getpid()]


def test_where_none_can_be_stopped(host: list[HostMemory]) -> None:
    """Nothing is looked for."""
    refuses = StopsAll()
    refuses.is_possible = False
    for stop_all in (None, refuses):
        unseen = UnseenMemory(new_stopped(0, stop_all))
        assert not unseen.is_unexplained(HostMemory(900 * MIB, 1900 * MIB), 0)


def test_a_look() -> None:
    """Processes stand still while they are measured, and go on also when that fails."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            stop_all, seen = StopsAll(), []
            stopped = new_stopped(os.getpid(), stop_all)
            unseen = UnseenMemory(stopped)

            def find() -> list[ProcStat]:
                one = read_stat(process.pid)
                return [] if one is None else [one]

            def measure(processes: Collection[ProcStat]) -> None:
                seen.extend([state(one.pid) for one in processes])
                if len(seen) > 1:
                    raise OSError("no descriptor is left")

            assert unseen.look(find, measure)
            assert seen == ["T"]
            assert wait_until(lambda: state(process.pid) == "R")
            with pytest.raises(OSError, match="no descriptor"):
                unseen.look(find, measure)
            assert wait_until(lambda: state(process.pid) == "R")
            assert not stopped.is_any
            refused = new_stopped(os.getpid(), StopsAll(answer=False))
            assert not UnseenMemory(refused).look(find, measure)
            assert wait_until(lambda: state(process.pid) == "R")
        finally:
            process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_nobody_is_stopped_where_nobody_forks(
    host: list[HostMemory], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A session that rests is looked at when the host's memory grows, and measured only then."""
    newest = [b"2", b"1", b"1", b"1"]
    monkeypatch.setattr(unseen_memory, "newest_pid", newest.pop)
    monkeypatch.setattr(limit_monitor, "sessions_past_bound", lambda _: {})
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            stop_all = StopsAll()
            limits = Limits(memory=4096 * MIB)
            sandbox = MonitoredSandbox(process.pid, tmp_path, limits, stop_all=stop_all)
            monitor = LimitMonitor(AllSessionsMemoryMonitor(None))
            for grown, left, asked in ((0, 4, 0), (10, 4, 0), (20, 2, 0), (0, 2, 0), (20, 0, 1)):
                host.append(HostMemory(host[-1].files + grown * MIB, host[-1].pages))
                assert monitor.check_once([sandbox]) == []
                assert (len(newest), stop_all.asked) == (left, asked)
        finally:
            process.kill()


def test_sessions_stand_still_in_turn(
    host: list[HostMemory], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there are many, those that had no turn in one check are the first in the next."""
    numbers = itertools.count()
    monkeypatch.setattr(unseen_memory, "newest_pid", lambda: b"%d" % next(numbers))
    monkeypatch.setattr(unseen_memory, "MAX_LOOKS_SECONDS", 1e-9)
    monkeypatch.setattr(unseen_memory, "PAUSE_FACTOR", 0)
    monkeypatch.setattr(limit_monitor, "sessions_past_bound", lambda _: {})
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    try:
        asked = [StopsAll() for _ in processes]
        sandboxes = [
            MonitoredSandbox(process.pid, tmp_path, Limits(memory=4096 * MIB), stop_all=one)
            for process, one in zip(processes, asked, strict=True)
        ]
        monitor = LimitMonitor(AllSessionsMemoryMonitor(None))
        for number in range(6):
            host.append(HostMemory(host[-1].files + 20 * MIB, host[-1].pages))
            assert monitor.check_once(sandboxes) == []
            assert sum(one.asked for one in asked) == number + 1
        assert [one.asked for one in asked] == [2, 2, 2]
    finally:
        for process in processes:
            process.kill()
            process.wait()
