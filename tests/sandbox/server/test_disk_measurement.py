"""One measurement of a session: what it finds, and in which steps."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from era_kernels.sandbox.server import session_disk, standstill
from era_kernels.sandbox.server.disk_measurement import DiskMeasurement
from era_kernels.sandbox.server.disk_reserve import ReserveBreach
from era_kernels.sandbox.server.process_tree import ProcStat, read_stat
from era_kernels.sandbox.server.session_disk import (
    MIB,
    TOLERANCE,
    Measured,
    SessionDisk,
    workspace_quotas,
)
from tests.sandbox.sandboxes import count_descriptors

FULL = ReserveBreach("the disk is full", min_growth=MIB // 8)


def session_of(workspace: Path, *beside: Path) -> SessionDisk:
    return SessionDisk(1, workspace_quotas(workspace, beside, MIB))


def measure(
    session: SessionDisk, *processes: ProcStat, breach: ReserveBreach | None = None
) -> str | None:
    measurement = DiskMeasurement(session, lambda: processes, lambda: 0, breach=breach)
    assert measurement.advance(60)
    measurement.close()
    return measurement.excess


def test_all_quotas(tmp_path: Path) -> None:
    """Directories beside the workspace have a bound of their own, all of them together."""
    workspace, *beside = (tmp_path / name for name in ("a", "b", "c"))
    for directory in (workspace, *beside):
        directory.mkdir()
    session = session_of(workspace, *beside)
    assert measure(session) is None
    assert session.measured is not None
    assert session.measured.headroom == MIB + TOLERANCE
    (workspace / "file").write_bytes(bytes(MIB // 2))
    assert measure(session) is None
    assert session.measured.headroom == MIB // 2 + TOLERANCE
    (workspace / "more").write_bytes(bytes(MIB))
    assert measure(session) == "workspace larger than 1 MB"
    (workspace / "more").unlink()
    for directory in beside:
        with (directory / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, session_disk.MIN_OTHER_WRITABLE // 2 + MIB)
    assert measure(session) == "files beside the workspace larger than 512 MB"


def test_who_begins_with_too_much_may_remove_it(tmp_path: Path) -> None:
    """It goes on while it hardly writes; with more than a start may have it does not begin."""
    (tmp_path / "file").write_bytes(bytes(3 * MIB))
    session = session_of(tmp_path)
    assert measure(session) is None
    session.growth.written = MIB
    assert measure(session) == "workspace larger than 1 MB"
    (tmp_path / "file").unlink()
    assert measure(session) is None
    with (tmp_path / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, session_disk.MAX_EXCESS_AT_START + 2 * MIB)
    assert measure(session_of(tmp_path)) == "workspace larger than 1 MB"


@pytest.mark.parametrize(
    ("written", "excess"), [(MIB // 4, None), (MIB, "workspace larger than 1 MB")]
)
def test_what_is_hidden_counts_as_written(tmp_path: Path, written: int, excess: str | None) -> None:
    """It is at most what was there when all was seen, and what was written since."""
    session = session_of(tmp_path)
    session.growth.add(8 * MIB, 1)
    (tmp_path / "file").write_bytes(bytes(MIB // 2))
    assert measure(session) is None  # all was to be seen
    session.growth.add(written, 2)
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [one.fileno()])
        own = ProcStat(os.getpid(), 1, 0, 1, 1, 0)
        assert measure(session, own) == excess
    assert measure(session) is None


def test_reserve(tmp_path: Path) -> None:
    """On a nearly full disk a session that has grown is to end, one that has not goes on."""
    session = session_of(tmp_path)
    assert measure(session, breach=FULL) is None  # nothing is known of it
    assert measure(session, breach=FULL) is None
    (tmp_path / "little").write_bytes(bytes(MIB // 16))
    assert measure(session, breach=FULL) is None
    (tmp_path / "file").write_bytes(bytes(MIB // 4))
    assert measure(session, breach=FULL) == FULL.message
    session.measured = Measured(MIB // 2, 0, 0)
    assert measure(session, breach=FULL) is None


def test_old_growth_ends_nobody(tmp_path: Path) -> None:
    """Who wrote as much long ago goes on; who writes now ends, though he also wrote long ago."""
    session = session_of(tmp_path)
    assert measure(session) is None
    (tmp_path / "old").write_bytes(bytes(MIB // 2))
    session.growth.add(MIB // 2, 100)
    session.growth.add(MIB // 4, 200)  # what nobody is known to have written: not this session
    measurement = DiskMeasurement(session, lambda: (), lambda: 0, breach=FULL)
    assert measurement.advance(60)
    assert measurement.excess is None
    assert measurement.is_unsure
    assert measure(session, breach=FULL) is None
    (tmp_path / "new").write_bytes(bytes(MIB // 4))
    session.growth.add(MIB // 4, 300)
    assert measure(session, breach=FULL) == FULL.message


def test_nothing_grows_old_while_the_session_stands_still(tmp_path: Path) -> None:
    """However long its measurement takes, what it wrote before is from just now."""
    for number in range(300):
        (tmp_path / str(number)).touch()
    session = SessionDisk(1, workspace_quotas(tmp_path, (), 64 * MIB))
    assert measure(session) is None

    def look(size: int, after: float) -> None:
        session.growth.add(size, session.stopped.running_time(time.monotonic() + after))

    (tmp_path / "file").write_bytes(bytes(MIB // 2))
    look(MIB // 2, 0)
    measurement = DiskMeasurement(session, lambda: (), lambda: 0, is_still=True, breach=FULL)
    assert not measurement.advance(0)
    look(0, 10)
    look(8 * MIB, 20)  # what others wrote meanwhile
    assert session.growth.recent <= MIB // 2
    assert measurement.advance(60)
    assert measurement.excess == FULL.message
    measurement.excess = None  # as if it were not to end
    measurement.close()
    look(0, 10)
    assert session.growth.recent < 1000


def test_it_stands_still_for_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a nearly full disk a session does not go on in the middle: it would fill it then."""
    monkeypatch.setattr(standstill, "MAX_STILL_SECONDS", 0)
    for number in range(300):
        (tmp_path / str(number)).touch()
    session = SessionDisk(1, workspace_quotas(tmp_path, (), 64 * MIB))
    measurement = DiskMeasurement(session, lambda: (), lambda: 0, is_still=True, breach=FULL)
    while not measurement.advance(0):
        assert not measurement.is_pausing


def test_who_has_not_grown_the_most_goes_on(tmp_path: Path) -> None:
    """It has grown, but others may have grown by more."""
    session = session_of(tmp_path)
    assert measure(session) is None
    (tmp_path / "file").write_bytes(bytes(MIB // 2))
    asked = []
    breach = ReserveBreach("full", 1, lambda *found: bool(asked.append(found)))
    assert measure(session, breach=breach) is None
    assert asked == [(session, MIB // 2)]


def test_it_is_given_up(tmp_path: Path) -> None:
    """A measurement that is closed in the middle leaves no descriptor."""
    for number in range(300):
        (tmp_path / str(number)).touch()
    before = count_descriptors(os.getpid())
    measurement = DiskMeasurement(session_of(tmp_path), lambda: (), lambda: 0)
    assert not measurement.advance(0)
    assert count_descriptors(os.getpid()) > before
    measurement.close()
    assert count_descriptors(os.getpid()) == before


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_nobody_stands_still_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a long measurement the session goes on for moments, and after it."""
    monkeypatch.setattr(standstill, "MAX_STILL_SECONDS", 0.01)
    monkeypatch.setattr(standstill, "PAUSE_SECONDS", 0.05)
    for number in range(3000):
        (tmp_path / str(number)).touch()
    states: set[tuple[bool, bool]] = set()
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            own = read_stat(process.pid)
            assert own is not None
            session = SessionDisk(1, workspace_quotas(tmp_path, (), 64 * MIB))
            measurement = DiskMeasurement(session, lambda: [own], lambda: 0, is_still=True)
            while not measurement.advance(0):
                states.add((measurement.is_pausing, state_of(process.pid) == "T"))
            assert {(False, True), (True, False)} <= states
            assert (True, True) not in states
            measurement.close()
            assert measurement.excess is None
            assert state_of(process.pid) != "T"
        finally:
            process.kill()


def test_what_is_moved_while_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement in which it went on is no proof: it is done again, with all still."""
    monkeypatch.setattr(standstill, "MAX_STILL_SECONDS", 0.01)
    monkeypatch.setattr(standstill, "PAUSE_SECONDS", 0.02)
    for name in "abc":
        (tmp_path / name).mkdir()
    last, many, first = (tmp_path / name for name in os.listdir(tmp_path))  # noqa: PTH208
    for number in range(3000):
        (many / str(number)).touch()
    (last / "large").write_bytes(bytes(65 * MIB))
    session = SessionDisk(1, workspace_quotas(tmp_path, (), 64 * MIB))
    session.growth.written = MIB
    measurement = DiskMeasurement(session, lambda: (), lambda: 0, is_still=True)
    pauses = 0
    while not measurement.advance(0):
        if measurement.is_pausing and (last / "large").exists():
            (last / "large").rename(first / "large")
            pauses += 1
    measurement.close()
    assert pauses == 1
    assert measurement.excess == "workspace larger than 64 MB"
