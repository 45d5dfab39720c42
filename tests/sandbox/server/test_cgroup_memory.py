"""What the files of control groups tell about memory; real groups are in `test_cgroups`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.sandbox.server.cgroup_hierarchies import server_control_files
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup, OomWatch, Shortage

MIB = 1024**2
V1_STAT = f"""\
cache 999
rss 999
total_cache {30 * MIB}
total_rss {60 * MIB}
total_shmem {10 * MIB}
total_inactive_file {12 * MIB}
total_active_file {8 * MIB}
total_unevictable 0
"""
V2_STAT = f"""\
anon {60 * MIB}
file {30 * MIB}
kernel {20 * MIB}
shmem {10 * MIB}
inactive_file {12 * MIB}
active_file {8 * MIB}
slab_reclaimable {5 * MIB}
slab_unreclaimable {5 * MIB}
"""


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Writes the files of a group: what follows `memory.` in each name, and its text."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"memory.{name}").write_text(text)


def test_use_in_version_1(tmp_path: Path) -> None:
    """All that is used, without files of the disk: tmpfs, stacks and pipes are used."""
    write_files(tmp_path, {"usage_in_bytes": f"{100 * MIB}\n", "stat": V1_STAT})
    group = MemoryGroup(tmp_path, 1)
    assert (group.total_bytes(), group.used_bytes()) == (100 * MIB, 80 * MIB)


def test_use_in_version_2(tmp_path: Path) -> None:
    """The same, without what the kernel keeps about files, too."""
    write_files(tmp_path, {"current": f"{110 * MIB}\n", "stat": V2_STAT})
    group = MemoryGroup(tmp_path, 2)
    assert (group.total_bytes(), group.used_bytes()) == (110 * MIB, 85 * MIB)


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_that_is_gone(tmp_path: Path, version: int) -> None:
    """It uses nothing, and nothing was killed in it."""
    group = MemoryGroup(tmp_path / "gone", version)
    assert (group.total_bytes(), group.used_bytes(), group.kill_count()) == (0, 0, 0)


def events(oom: int, oom_kill: int) -> str:
    return f"low 0\nhigh 0\nmax 7\noom {oom}\noom_kill {oom_kill}\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("own", "own_kills", "server", "server_local", "expected"),
    [
        (0, 0, 0, 0, None),
        (1, 1, 1, 0, Shortage.SESSION),  # the server's file counts what is below, too
        (0, 1, 1, 1, Shortage.SERVER),
        (0, 3, 5, 2, Shortage.SERVER),
        (2, 2, 3, 1, Shortage.SESSION),  # another session fell to the server's bound before
        (0, 1, 0, 0, Shortage.HOST),
        (1, 0, 1, 0, None),  # memory ran out, but nothing was killed
    ],
)
def test_whose_memory_in_version_2(
    tmp_path: Path,
    own: int,
    own_kills: int,
    server: int,
    server_local: int,
    expected: Shortage | None,
) -> None:
    """`oom` of `memory.events.local` tells which bound it was, `oom_kill` that it cost a life."""
    write_files(tmp_path, {"events": events(0, 0), "events.local": events(0, 0)})
    watch = OomWatch(MemoryGroup(tmp_path / "1", 2), MemoryGroup(tmp_path, 2))
    write_files(
        tmp_path, {"events": events(server, own_kills), "events.local": events(server_local, 0)}
    )
    write_files(
        tmp_path / "1", {"events": events(own, own_kills), "events.local": events(own, own_kills)}
    )
    assert watch.shortage() is expected


def test_what_happened_before_in_version_2(tmp_path: Path) -> None:
    """A session that is killed by its host is not told of a bound that others ran into."""
    write_files(tmp_path, {"events": events(3, 2), "events.local": events(2, 0)})
    watch = OomWatch(MemoryGroup(tmp_path / "1", 2), MemoryGroup(tmp_path, 2))
    write_files(tmp_path / "1", {"events": events(0, 1), "events.local": events(0, 1)})
    assert watch.shortage() is Shortage.HOST


@pytest.mark.parametrize(
    ("own", "server", "kills", "peak", "expected"),
    [
        (0, 0, 0, 10, None),
        (1, 0, 1, 10, Shortage.SESSION),
        (1, 1, 1, 64, Shortage.SERVER),  # an event above goes to all below
        (3, 2, 1, 64, Shortage.SESSION),
        (1, 1, 1, 10, Shortage.HOST),  # a container around the server ran out
        (0, 0, 1, 10, Shortage.HOST),  # the host did, which tells no group
    ],
)
def test_whose_memory_in_version_1(
    tmp_path: Path, own: int, server: int, kills: int, peak: int, expected: Shortage | None
) -> None:
    """Events are counted by eventfds; those that the server's group got too are not its own."""
    write_files(
        tmp_path, {"limit_in_bytes": f"{64 * MIB}\n", "max_usage_in_bytes": f"{peak * MIB}\n"}
    )
    write_files(
        tmp_path / "1", {"oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"}
    )
    groups = [MemoryGroup(tmp_path / "1", 1), MemoryGroup(tmp_path, 1)]
    for group in groups:
        group.oom_eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    watch = OomWatch(*groups)
    for group, count in zip(groups, (own, server), strict=True):
        if count:
            os.eventfd_write(group.oom_eventfd or 0, count)
    assert watch.shortage() is expected
    assert watch.shortage() is expected  # whoever asks again
    for group in groups:
        group.unwatch()
        group.unwatch()


def test_files_of_the_server() -> None:
    """The bound of all sessions ends one process or session below it, never all."""
    assert server_control_files(2, 64 * MIB) == {
        "memory.max": str(64 * MIB),
        "memory.swap.max?": "0",
    }
    assert server_control_files(1, 64 * MIB) == {
        "memory.use_hierarchy?": "1",
        "memory.limit_in_bytes": str(64 * MIB),
        "memory.memsw.limit_in_bytes?": str(64 * MIB),
        "memory.kmem.tcp.limit_in_bytes?": str(16 * MIB),
    }
