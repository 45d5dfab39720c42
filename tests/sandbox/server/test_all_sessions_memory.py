"""The memory of all sessions together: how often it is read, and what is said about it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from era_kernels.sandbox.server import all_sessions_memory
from era_kernels.sandbox.server.all_sessions_memory import (
    MAX_PAUSE,
    MIN_PAUSE,
    AllSessionsMemoryMonitor,
    MemoryUse,
    SessionMemory,
    describe_server_excess,
    describe_server_oom,
)
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup
from era_kernels.sandbox.server.socket_memory import SocketMemory
from tests.waiting import until

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def write_group(directory: Path, used: int, cached: int = 0) -> MemoryGroup:
    """Writes the files of a group of version 2, whose text real ones of Linux look like."""
    directory.mkdir(exist_ok=True)
    (directory / "memory.current").write_text(f"{(used + cached) * MIB}\n")
    (directory / "memory.stat").write_text(
        f"anon {used * MIB}\ninactive_file {cached * MIB}\nactive_file 0\nslab_reclaimable 0\n"
    )
    return MemoryGroup(directory, 2)


@pytest.mark.parametrize(
    ("used", "pause"),
    [
        (0, MAX_PAUSE),
        (100, MAX_PAUSE),
        (10 * 1024 - 512 - 1024, 0.25),  # a gigabyte is left, of which four are gone in a second
        (10 * 1024 - 512, MIN_PAUSE),
        (20 * 1024, MIN_PAUSE),
    ],
)
def test_sooner_near_the_bound(used: int, pause: float) -> None:
    """The less is left until the largest ends, the sooner is the next check."""
    monitor = AllSessionsMemoryMonitor(10 * GIB)
    assert monitor.pause_before_next(MemoryUse(used * MIB)) == pytest.approx(pause, abs=0.01)


def test_one_file_far_from_the_bound(tmp_path: Path) -> None:
    """Sessions are measured only where all together use too much; files of the disk are not use."""
    server_group = write_group(tmp_path, used=300, cached=5000)
    sessions = [SessionMemory(1, write_group(tmp_path / f"{n}", used=100 + n)) for n in range(3)]
    monitor = AllSessionsMemoryMonitor(1000 * MIB, server_group)
    assert monitor.measure(sessions) == MemoryUse(300 * MIB)
    write_group(tmp_path, used=960)
    use = monitor.measure(sessions)
    assert use.total == sum(use.by_session.values()) == 303 * MIB  # the rest is ending already
    assert [use.by_session[one] // MIB for one in sessions] == [100, 101, 102]


def test_what_sockets_keep_counts(tmp_path: Path) -> None:
    """It is in no group, and added to what the groups tell, of all and of each session."""
    server_group = write_group(tmp_path, used=600)
    sessions = [SessionMemory(1, write_group(tmp_path / f"{n}", used=300)) for n in range(2)]
    sessions[1].sockets = SocketMemory(1)
    sessions[1].sockets.size = 400 * MIB
    monitor = AllSessionsMemoryMonitor(1000 * MIB, server_group)
    use = monitor.measure(sessions)
    assert use.total == 1000 * MIB
    assert [use.by_session[one] // MIB for one in sessions] == [300, 700]


def test_an_idle_session_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By processes, exact figures are taken where they matter, and kept while nothing happens."""
    calls: list[int] = []

    def counted(processes: object, session: SessionMemory) -> int:
        calls.append(session.init)
        return KIB

    monkeypatch.setattr(all_sessions_memory, "_exact_bytes", counted)
    with subprocess.Popen(["sleep", "600"]) as idle:
        session = SessionMemory(idle.pid)
        time.sleep(0.2)  # until it sleeps
        assert AllSessionsMemoryMonitor(GIB).measure([session]).by_session == {}
        assert calls == []
        near = AllSessionsMemoryMonitor(session.processes_bytes)
        uses = [near.measure([session]) for _ in range(3)]
        idle.kill()
    assert calls == [idle.pid]
    assert uses == [MemoryUse(KIB)] * 3


async def test_no_two_for_one_excess(tmp_path: Path) -> None:
    """The largest ends, once; while its memory is on its way back no other does."""
    ended: list[str] = []
    server_group = write_group(tmp_path, used=990)
    sizes = {"small": 190, "large": 450, "middle": 350}
    monitor = AllSessionsMemoryMonitor(1000 * MIB, server_group)
    for name, size in sizes.items():
        session = SessionMemory(1, write_group(tmp_path / name, used=size))
        monitor.add(session, lambda why, name=name: ended.append(f"{name}: {why}"))
    await asyncio.sleep(2 * MAX_PAUSE)
    assert ended == [f"large: {describe_server_excess(1000 * MIB)}"]
    write_group(tmp_path / "small", used=700)  # one more excess, though the files still tell all
    await until(lambda: len(ended) == 2)
    assert ended[1].startswith("small: ")
    await monitor.aclose()
    await monitor.aclose()


async def test_a_session_that_ends_anyway(tmp_path: Path) -> None:
    """A session that is being deleted is not counted, and nobody ends in its place."""
    ended: list[str] = []
    server_group = write_group(tmp_path, used=990)
    monitor = AllSessionsMemoryMonitor(1000 * MIB, server_group)
    deleted = SessionMemory(1, write_group(tmp_path / "deleted", used=700))
    kept = SessionMemory(1, write_group(tmp_path / "kept", used=290))
    monitor.add(deleted, lambda why: ended.append("deleted"))
    monitor.add(kept, lambda why: ended.append("kept"))
    monitor.discard(deleted)
    monitor.discard(deleted)
    await asyncio.sleep(2 * MAX_PAUSE)
    assert ended == []
    await monitor.aclose()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (12 * GIB, "12 GiB"),
        (GIB, "1 GiB"),
        (600 * MIB, "600 MiB"),
        (19660 * MIB, "19.2 GiB"),
        (838860 * MIB, "819.2 GiB"),
    ],
)
def test_words(size: int, text: str) -> None:
    """The cause names the setting and its value as a person would."""
    assert describe_server_excess(size) == (
        f"out of memory: all sessions together use 95 % of {text} (server_memory), "
        "and this one used the most"
    )
    assert describe_server_oom(size).startswith(
        f"out of memory: all sessions together used {text} (server_memory)"
    )
