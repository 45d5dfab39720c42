"""A failure of a test that tells times apart counts only where the machine kept time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.stalls import LOOK_INTERVAL, Stopwatch
from tests.test_worker_schedule import run

TESTS = """
import pytest

from tests import stalls

tried = []

def has_stalled(yes):
    # Seconds, which are compared with what was measured: never less than nothing.
    stalls.STALL = stalls.TIMED_STALL = -1 if yes else 1e9

@pytest.fixture
def fresh():
    return []

@pytest.fixture(autouse=True)
def stall():
    has_stalled(True)

@pytest.mark.timed
def test_that_passes_at_last(fresh):
    fresh.append(1)
    assert fresh == [1]
    tried.append(1)
    assert len(tried) == 2

@pytest.mark.timed
def test_that_never_passes():
    tried.append(1)
    assert False, f"tried {len(tried)}"

def test_without_the_mark():
    tried.append(1)
    assert False, f"tried {len(tried)}"

@pytest.mark.timed
def test_without_a_stall():
    has_stalled(False)
    tried.append(1)
    assert False, f"tried {len(tried)}"
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_which_failures_count(tmp_path: Path, workers: str) -> None:
    """A failure is tried again where the machine stalled, with new fixtures, and that is told."""
    (tmp_path / "test_a.py").write_text(TESTS)
    done = run(tmp_path, "-n", workers)
    assert "3 failed, 1 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    for tries in (5, 7, 8):  # 2, then 3, then 2, then 1
        assert f"tried {tries}\n" in done.stdout
    assert "tried 6" not in done.stdout
    for line in ("at_last: 1 x, then passed", "never_passes: 2 x, then failed"):
        assert line in done.stdout
    assert "mark: 1 x, then failed" in done.stdout
    assert "without_a_stall: " not in done.stdout


def test_stopwatch() -> None:
    """It notes the longest time between two looks at the clock."""
    with Stopwatch() as stopwatch:
        time.sleep(5 * LOOK_INTERVAL)
    assert stopwatch.longest >= LOOK_INTERVAL
