"""When a session is measured, by what it may have added."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.sandbox.server.process_tree import ProcStat, read_stat
from era_kernels.sandbox.server.session_disk import (
    MIB,
    DiskGrowth,
    Measured,
    SessionDisk,
    workspace_quotas,
)


def own_stat() -> list[ProcStat]:
    found = read_stat(os.getpid())
    assert found is not None
    return [found]


def test_what_is_written_counts(tmp_path: Path) -> None:
    """By calls and through children that were waited for; a process that rests has none."""
    growth = DiskGrowth()
    growth.read_written(own_stat())
    (tmp_path / "file").write_bytes(bytes(2 * MIB))
    written = growth.read_written(own_stat())
    assert written is not None
    assert written >= 2 * MIB
    if (pid := os.fork()) == 0:
        (tmp_path / "child").write_bytes(bytes(3 * MIB))
        os._exit(0)
    os.waitpid(pid, 0)
    last = own_stat()
    written = growth.read_written(last)
    assert written is not None
    assert written >= 3 * MIB
    assert growth.read_written(last) is None


def test_who_ends_hides_nothing(tmp_path: Path) -> None:
    """What a process wrote that ends unseen does not hide what others write afterwards."""
    growth = DiskGrowth()
    ready, done = os.pipe(), os.pipe()
    if (pid := os.fork()) == 0:
        (tmp_path / "child").write_bytes(bytes(4 * MIB))
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    child = read_stat(pid)
    assert child is not None
    growth.read_written([*own_stat(), child])
    (tmp_path / "file").write_bytes(bytes(2 * MIB))
    written = growth.read_written(own_stat())
    os.write(done[1], b"x")
    os.waitpid(pid, 0)
    for descriptor in (*ready, *done):
        os.close(descriptor)
    assert written is not None
    assert 2 * MIB <= written < 3 * MIB


def test_what_was_found_lately_fades() -> None:
    """What was written long ago is forgotten, what was written in all is not."""
    growth = DiskGrowth()
    growth.add(8 * MIB, 100)
    assert growth.recent == 8 * MIB
    growth.add(0, 110)
    assert growth.recent < 100
    assert growth.total == 8 * MIB


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (None, 32),  # nothing is known: half of the bound
        (Measured(0, 64 * MIB, 0.001), 32),  # quick: half of what is left
        (Measured(60 * MIB, 4 * MIB, 0.001), 2),
        (Measured(64 * MIB, 0, 0.001), 1),  # at least that
        (Measured(0, 64 * MIB, 1), 64),  # slow: all that is left
        (Measured(63 * MIB, MIB, 1), 4),  # and at least what keeps it from standing still
    ],
)
def test_when_it_is_measured(tmp_path: Path, measured: Measured | None, expected: int) -> None:
    """After so many MiB, of a bound of 64."""
    session = SessionDisk(1, workspace_quotas(tmp_path, [], 64 * MIB))
    session.measured = measured
    assert session.max_growth == expected * MIB


def test_what_was_found_lately(tmp_path: Path) -> None:
    """It counts from a measurement that is older than the moment of a burst, not from the last."""
    session = SessionDisk(1, workspace_quotas(tmp_path, [], 64 * MIB))
    assert session.growth.found_lately() == (0, 0)

    def measure(total: int) -> tuple[int, int]:
        session.begin_measurement(0, is_still=False)
        session.end_measurement(total * MIB, 0, 0)
        return session.growth.found_lately()

    assert measure(0) == (0, 0)
    session.growth.add(8 * MIB, 100)
    assert measure(8) == (8 * MIB, 8 * MIB)
    assert measure(8) == (8 * MIB, 8 * MIB)
    session.growth.add(MIB, 101)
    assert measure(9) == (9 * MIB, 9 * MIB)
    session.growth.add(0, 102.5)
    assert measure(9) == (MIB, MIB)  # the rest is older
    session.growth.add(0, 104)
    assert measure(9) == (0, 0)


def test_what_is_measured_is_not_counted_again(tmp_path: Path) -> None:
    """Growth counts from the last measurement on; unseen is all since the last standstill."""
    session = SessionDisk(1, workspace_quotas(tmp_path, [], 64 * MIB))
    session.growth.add(10 * MIB, 1)
    session.begin_measurement(taken=50, is_still=True)
    session.growth.add(MIB, 2)
    session.begin_measurement(taken=60, is_still=False)
    session.growth.add(MIB, 3)
    assert (session.grown, session.taken_since_measurement(65)) == (MIB, 5)
    assert session.growth.is_unseen(2 * MIB, 50 + MIB)
    assert not session.growth.is_unseen(2 * MIB + 2, 50 + MIB)
    assert not session.growth.is_unseen(2 * MIB, 49 + MIB)
