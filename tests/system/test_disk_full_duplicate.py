"""A disk that fills while a session is duplicated gives 507 and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client
from tests.contract.checks import check, check_error
from tests.server_process import Launcher, Server
from tests.storage.stores import small_disk

MIB = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose data directory has room for 64 MiB."""
    with small_disk(tmp_path, "64M") as disk:
        launcher = Launcher(disk / "data")
        launcher.data_dir.mkdir()
        try:
            yield launcher.start("--disk-reserve", "0")
        finally:
            launcher.stop_all()


def test_duplicate(server: Server) -> None:
    """A duplicate without room gives 507 and leaves the source alone; with room it works."""
    client = Client(server.base_url)
    session = client.session("python", session_id="source", data={"code": "print('stored')"})
    session.run(f"open('large', 'wb').write(b'x' * {40 * MIB}); x = 1")
    before = session.get()
    for body in ({"id": "copy"}, {"id": "copy", "variables": False}):
        answer = client.http.post(f"{session.path}/duplicate", json=body)
        check_error(answer, 507, "INSUFFICIENT_STORAGE")
        check_error(client.http.get("/api/sessions/copy"), 404, "SESSION_NOT_FOUND")
        assert len(list((server.data_dir / "sessions").iterdir())) == 1
    assert session.get() == before
    check(session.run("import os; print(x, os.path.getsize('large'))"), stdout=f"1 {40 * MIB}\n")
    session.run(f"open('large', 'wb').write(b'y' * {10 * MIB})")
    answer = client.http.post(f"{session.path}/duplicate", json={"id": "copy"})
    assert answer.status_code == 201, answer.text
    check(answer.json(), file_count=1, total_size_bytes=10 * MIB)
    check(client.http.post("/api/sessions/copy/run", json={}).json(), stdout="stored\n")
    client.close()
