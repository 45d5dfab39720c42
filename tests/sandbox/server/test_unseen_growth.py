"""What processes write that no list shows counts for sessions that seem to rest."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.sandbox.server import process_tree
from era_kernels.sandbox.server.disk_monitor import _Growths
from era_kernels.sandbox.server.session_disk import MIB, SessionDisk, workspace_quotas


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[SessionDisk]:
    """A session whose only process sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield SessionDisk(process.pid, workspace_quotas(tmp_path, [], 64 * MIB))
        process.kill()


def test_while_anybody_forks(resting: SessionDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small losses of the disk add up; those without a fork are somebody else's."""
    newest = 1
    monkeypatch.setattr(process_tree, "newest_pid", lambda: b"%d" % newest)
    growths = _Growths()
    growths.find([resting], 0)
    while growths.find([resting], 0)[resting] is not None:  # it is still being executed
        time.sleep(0.05)
    assert growths.find([resting], 100 * MIB) == {resting: None}
    for _ in range(3):
        newest += 1
        assert growths.find([resting], 300_000) == {resting: None}
    newest += 1
    assert growths.find([resting], 300_000) == {resting: 1_200_000}
    newest += 1
    assert growths.find([resting], 300_000) == {resting: None}
