"""A failure of a test that tells times apart counts only where the machine kept time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.stalls import LOOK_INTERVAL, STALL, Stopwatch
from tests.test_worker_schedule import run

TESTS = """
import pytest

from tests import stalls

tried = []

def has_stalled(yes):
    stalls.STALL = -1 if yes else 1e9  # seconds; it is compared when the test is over

@pytest.fixture
def fresh():
    return []

@pytest.mark.timed
def test_that_passes_at_last(fresh):
    fresh.append(1)
    assert fresh == [1]
    tried.append(1)
    has_stalled(True)
    assert len(tried) == 2

@pytest.mark.timed
def test_that_never_passes():
    tried.append(1)
    has_stalled(True)
    assert False, f"tried {len(tried)}"

@pytest.mark.timed
def test_without_a_stall():
    tried.append(1)
    has_stalled(False)
    assert False, f"tried {len(tried)}"

def test_without_the_mark():
    tried.append(1)
    has_stalled(True)
    assert False, f"tried {len(tried)}"
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_which_failures_count(tmp_path: Path, workers: str) -> None:
    """One more time is only for marked tests on a machine that stalled, with new fixtures."""
    (tmp_path / "test_a.py").write_text(TESTS)
    done = run(tmp_path, "-n", workers)
    assert "3 failed, 1 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    for tries in (5, 6, 7):  # 2, then 3 more, then 1 each
        assert f"tried {tries}\n" in done.stdout
    assert "tried 3" not in done.stdout


def test_stopwatch() -> None:
    """It notes the longest time between two looks at the clock."""
    with Stopwatch() as stopwatch:
        time.sleep(5 * LOOK_INTERVAL)
    assert stopwatch.longest >= LOOK_INTERVAL
    assert stopwatch.has_stalled == (stopwatch.longest > STALL)
