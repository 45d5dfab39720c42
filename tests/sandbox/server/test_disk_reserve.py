"""Who is chosen when a disk is nearly full."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from era_kernels.models import default_disk_reserve
from era_kernels.sandbox.server.disk_reserve import PAUSE, REPEAT_PAUSE, SLOW_SHARE, DiskReserve
from era_kernels.sandbox.server.disk_space import DiskSpace
from era_kernels.sandbox.server.session_disk import MIB, Measured, SessionDisk, workspace_quotas
from tests.storage.stores import small_disk


@pytest.mark.parametrize(
    ("total", "expected"), [(100 << 30, 1 << 30), (10 << 30, 512 * MIB), (100 * MIB, 5 * MIB)]
)
def test_default(total: int, expected: int) -> None:
    """1 GiB or 5 %, the smaller."""
    assert default_disk_reserve(total) == expected


def sessions_on(space: DiskSpace, directory: Path, *recent: int) -> list[SessionDisk]:
    sessions = []
    for size in recent:
        session = SessionDisk(1, workspace_quotas(directory, [], 64 * MIB))
        session.devices = space.add([directory])
        (session.workspace_device,) = session.devices
        session.growth.add(size, 100)
        sessions.append(session)
    space.look()
    return sessions


def space_left(space: DiskSpace) -> int:
    (file_system,) = space.file_systems.values()
    return file_system.free


def test_the_fastest_is_chosen(tmp_path: Path) -> None:
    """One after the other, the fastest first, and nobody who took little."""
    space = DiskSpace()
    little, much, more = sessions_on(space, tmp_path, 1000, 4 * MIB, 8 * MIB)
    reserve = DiskReserve(1 << 60)
    assert reserve.is_near(space, [much])
    found = reserve.find_fastest(space, [little, much, more], 100)
    assert found is not None
    assert found[0] is more
    assert found[1].message.startswith("disk nearly full: less than ")
    assert reserve.find_fastest(space, [little, much, more], 100 + PAUSE / 2) is None
    found = reserve.find_fastest(space, [little, much, more], 100 + PAUSE)
    assert found is not None
    assert found[0] is much
    assert reserve.find_fastest(space, [little, much, more], 100 + 2 * PAUSE) is None
    found = reserve.find_fastest(space, [little, much, more], 100 + 2 * REPEAT_PAUSE)
    assert found is not None


def test_who_took_little_is_not_ended_for_another(tmp_path: Path) -> None:
    """Nobody says who wrote 8 MiB: who is seen to have written one more is measured, and lives."""
    space = DiskSpace()
    innocent, culprit = sessions = sessions_on(space, tmp_path, 9 * MIB, 8 * MIB)
    reserve = DiskReserve(space_left(space) + MIB)
    found = reserve.find_fastest(space, sessions, 100)
    assert found is not None
    assert found[0] is innocent
    assert reserve.find_taker(sessions, 100) is None
    assert not found[1].is_most(innocent, MIB)
    reserve.note_measured(innocent, is_unsure=False)
    now = time.monotonic()
    assert reserve.find_taker(sessions, now) is None
    found = reserve.find_fastest(space, sessions, 100)  # at once
    assert found is not None
    assert found[0] is culprit
    assert reserve.find_taker(sessions, now) is None  # it is being measured
    reserve.note_measured(culprit, is_unsure=True)
    assert reserve.find_taker(sessions, now) is None  # it is to be measured again
    found = reserve.find_fastest(space, sessions, 100 + PAUSE)
    assert found is not None
    assert found[1].is_most(culprit, 6 * MIB)
    assert reserve.find_taker([innocent], now) is None


def test_who_took_the_most_of_those_that_were_found(tmp_path: Path) -> None:
    """When the others have not grown, it is the one that has."""
    space = DiskSpace()
    first, second, decoy = sessions = sessions_on(space, tmp_path, 9 * MIB, 8 * MIB, 7 * MIB)
    reserve = DiskReserve(space_left(space) + MIB)
    for session, grown in (first, 2 * MIB), (second, 3 * MIB), (decoy, 0):
        found = reserve.find_fastest(space, sessions, 100)
        assert found is not None
        assert found[0] is session
        assert not (grown and found[1].is_most(session, grown))
        reserve.note_measured(session, is_unsure=False)
    taker = reserve.find_taker(sessions, time.monotonic())
    assert taker is not None
    assert taker[0] is second
    assert reserve.find_taker(sessions, time.monotonic()) is None


def test_with_half_of_the_reserve_nobody_is_waited_for(tmp_path: Path) -> None:
    """Who has grown is ended, whoever else may have."""
    space = DiskSpace()
    sessions = sessions_on(space, tmp_path, 9 * MIB, 8 * MIB)
    found = DiskReserve(4 * space_left(space)).find_fastest(space, sessions, 100)
    assert found is not None
    assert found[1].is_most(found[0], MIB)


def test_the_slow_count_since_the_shortage_began(tmp_path: Path) -> None:
    """Of those that took little at a time the one that took the most; what was before is none."""
    space = DiskSpace()
    old, less, most = sessions = sessions_on(space, tmp_path, 900_000, 0, 0)
    reserve = DiskReserve(space_left(space) + 64 * MIB)
    for session in sessions:
        session.measured = Measured(0, MIB, 0.0, session.growth.total)
    assert reserve.find_fastest(space, sessions, 100) is None
    less.growth.add(100_000, 110)
    most.growth.add(900_000, 110)
    assert reserve.find_fastest(space, sessions, 110) is None  # nothing of the reserve has gone
    (file_system,) = space.file_systems.values()
    file_system.free -= (file_system.free + 64 * MIB) // SLOW_SHARE + MIB
    found = reserve.find_fastest(space, sessions, 111)
    assert found is not None
    assert found[0] is most
    most.measured = Measured(800_000, MIB, 0.0, most.growth.total)
    assert found[1].find_growth(most) == (800_000, 0)
    assert found[1].is_most(most, 800_000)
    assert reserve.find_fastest(space, [old, less], 120) is None  # one is enough for a while


def test_the_shortage_ends_while_the_slow_are_measured(tmp_path: Path) -> None:
    """Then nobody is ended as slow; who was found to be fast before is."""
    space = DiskSpace()
    fast, first, second = sessions = sessions_on(space, tmp_path, 2 * MIB, 0, 0)
    reserve = DiskReserve(space_left(space) + 64 * MIB)
    for session in sessions:
        session.measured = Measured(0, MIB, 0.0, session.growth.total)
    found = reserve.find_fastest(space, sessions, 100)
    assert found is not None
    assert found[0] is fast
    (file_system,) = space.file_systems.values()
    free = file_system.free
    file_system.free -= (free + 64 * MIB) // SLOW_SHARE + MIB
    first.growth.add(900_000, 110)
    second.growth.add(800_000, 110)
    slow = reserve.find_fastest(space, [first, second], 101)
    assert slow is not None
    assert slow[0] is first
    file_system.free = free + 128 * MIB
    assert reserve.find_fastest(space, sessions, 102) is None
    assert slow[1].find_growth(first) == (0, 0)
    assert found[1].is_most(fast, 2 * MIB)


def test_while_there_is_room(tmp_path: Path) -> None:
    """Nobody is chosen, nor without a reserve."""
    space = DiskSpace()
    sessions = sessions_on(space, tmp_path, 8 * MIB)
    for reserve in (DiskReserve(0), DiskReserve(1)):
        assert reserve.find_fastest(space, sessions, 100) is None
        assert not reserve.is_near(space, sessions)


def test_what_is_taken_adds_up(tmp_path: Path) -> None:
    """What is given back does not count, an inode counts as an entry does."""
    with small_disk(tmp_path, "16M") as disk:
        (disk / "a").mkdir()
        space = DiskSpace()
        space.add([disk / "a"])
        space.look()
        (disk / "a" / "file").write_bytes(bytes(MIB))
        space.look()
        assert MIB <= space.taken <= MIB + 64 * 1024
        (disk / "a" / "file").unlink()
        space.look()
        before = space.taken
        for number in range(16):
            (disk / "a" / str(number)).touch()
        space.look()
        assert space.taken - before == 16 * 4096


def test_free_inodes_count_as_their_share(tmp_path: Path) -> None:
    """Where a quarter of the inodes is free, a quarter of the bytes is at most."""
    with small_disk(tmp_path, "16M,nr_inodes=1000") as disk:
        space = DiskSpace()
        space.add([disk])
        for number in range(750):
            (disk / str(number)).touch()
        space.look()
        (found,) = space.file_systems.values()
        assert 3 * MIB < found.free <= 4 * MIB
        assert space.may_fill_soon([found.device])
        assert not space.may_fill_soon([found.device + 1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [("64G,nr_inodes=1000000", False), ("64G,nr_inodes=100000", True), ("1G", True)],
)
def test_what_one_session_fills_in_a_moment(tmp_path: Path, options: str, expected: bool) -> None:
    """On such a disk sessions are measured as soon as they begin; elsewhere that can wait."""
    with small_disk(tmp_path, options) as disk:
        space = DiskSpace()
        devices = space.add([disk])
        space.look()
        assert space.may_fill_soon(devices) is expected
