"""A backup while KV, D1 and R2 are written to holds, of all three, what was answered before."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import pytest

from tests.server_process import Launcher
from tests.system.storage_writers import D1Writer, KVWriter, R2Writer
from tests.system.test_backup import command, restored
from tests.system.test_storage_crash import Load, check_counters


@pytest.mark.parametrize(
    ("backups", "seconds"),
    [
        pytest.param(1, 0.4, id="short"),
        pytest.param(5, 10.0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_backup_of_all_stores(
    launcher: Launcher, tmp_path: Path, backups: int, seconds: float
) -> None:
    """Every write answered before the backup is restored whole; each later one whole or not."""
    server = launcher.start()
    numbers = count()
    loads = [
        Load(make(), server.base_url, numbers) for make in (KVWriter, D1Writer, D1Writer, R2Writer)
    ]
    before: list[list[list[int]]] = []
    for backup in range(backups):
        time.sleep(seconds)
        for load in loads:
            load.wait_for_answer()
        before.append([list(load.answered) for load in loads])
        done = command("backup", tmp_path / f"{backup}", data_dir=server.data_dir)
        assert done.returncode == 0, done.stderr
    server.kill()
    for load in loads:
        load.join()
    for backup, answered in enumerate(before):
        assert all(answered)
        with restored(tmp_path / f"{backup}", tmp_path / f"restored-{backup}" / "data") as client:
            for load, there in zip(loads, answered, strict=True):
                for number in there:
                    load.writer.verify(client, number)
                for number in {*load.answered, *load.unanswered} - {*there}:
                    load.writer.verify_unanswered(client, number)
            assert "problems" not in client.http.get("/health").json()
            check_counters(client)
