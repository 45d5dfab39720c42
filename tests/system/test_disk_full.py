"""A full disk gives status 507 and loses nothing; with room the server works again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check, check_error
from tests.server_process import Server
from tests.system.disks import launcher_on_disk

MEGABYTE = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose data directory is a disk of 48 MB, all of which it may use."""
    with launcher_on_disk(tmp_path, "48M") as launcher:
        yield launcher.start("--disk-reserve", "0")


@pytest.fixture
def client(server: Server) -> Client:
    return server.connect()


def fill(client: Client, session: SessionClient, left: int) -> str:
    """Fills the disk but for so many bytes, and returns the path of the file."""
    code = f"""
import os
s = os.statvfs('.')
with open('filler', 'wb') as f:
    f.write(bytes(s.f_bavail * s.f_frsize - {left}))
"""
    check(session.run(code), exit_code=0)
    return f"{session.path}/files/filler"


def test_upload(server: Server, client: Client) -> None:
    """An upload that finds no room is 507 and leaves the old file; a smaller one works."""
    session = client.session("python")
    path = f"{session.path}/files/f"
    client.http.put(path, content=b"old").raise_for_status()
    filler = fill(client, session, 5 * MEGABYTE)
    for body in (b"x" * 20 * MEGABYTE, iter([b"x" * MEGABYTE] * 20)):
        check_error(client.http.put(path, content=body), 507, "INSUFFICIENT_STORAGE")
        assert client.http.get(path).content == b"old"
        assert not any((server.data_dir / "incoming").iterdir())
    listed = client.http.get(f"{session.path}/files").json()["files"]
    assert [file["path"] for file in listed] == ["f", "filler"]
    client.http.put(path, content=b"y" * MEGABYTE).raise_for_status()
    client.http.delete(filler).raise_for_status()
    client.http.put(path, content=b"x" * 20 * MEGABYTE).raise_for_status()
    assert client.http.get(path).content == b"x" * 20 * MEGABYTE


def test_execute_with_files(server: Server, client: Client) -> None:
    """Files of an ephemeral session that find no room give 507, and nothing of it is left."""
    session = client.session("python")
    filler = fill(client, session, 2 * MEGABYTE)
    body = {"language": "python", "code": "print(1)", "files": {"big": "x" * 8 * MEGABYTE}}
    check_error(client.http.post("/api/execute", json=body), 507, "INSUFFICIENT_STORAGE")
    assert len(list((server.data_dir / "sessions").iterdir())) == 1
    assert not any((server.data_dir / "incoming").iterdir())
    client.http.delete(filler).raise_for_status()
    check(client.http.post("/api/execute", json=body).json(), stdout="1\n")


def test_run_that_prints_much(client: Client) -> None:
    """A run whose output finds no room ends with an error; files stay, and the next run works."""
    session = client.session("python", data={"kept": True})
    client.http.put(f"{session.path}/files/f", content=b"kept").raise_for_status()
    filler = fill(client, session, 3 * MEGABYTE)
    code = "for n in range(20_000): print('x' * 1000)"
    answer = client.http.post(f"{session.path}/run", json={"code": code}, timeout=60)
    check_error(answer, 507, "INSUFFICIENT_STORAGE")
    assert client.http.get(f"{session.path}/files/f").content == b"kept"
    assert client.http.get("/api/sessions").json()["total"] == 1
    client.http.delete(filler).raise_for_status()
    check(session.run("print(open('f').read())"), stdout="kept\n", exit_code=0)
    check(session.get(), data={"kept": True})


def test_kv(client: Client) -> None:
    """A put that finds no room is 507 and changes nothing; KV is still read and deleted from."""
    session = client.session("python")
    path = "/api/storage/kv/n/k"
    client.http.put(path, json={"value": "old", "metadata": {"a": 1}}).raise_for_status()
    filler = fill(client, session, 2 * MEGABYTE)
    large = {"value": "x" * 8 * MEGABYTE}
    for _ in range(2):
        check_error(client.http.put(path, json=large), 507, "INSUFFICIENT_STORAGE")
        assert client.http.get(path).json() == {"value": "old", "metadata": {"a": 1}}
    assert client.http.get("/api/resources/stats").json()["by_type"]["kv"] == 1
    client.http.delete(filler).raise_for_status()
    client.http.put(path, json=large).raise_for_status()
    assert client.http.get(path).json() == {**large, "metadata": {}}


def test_duplicate(server: Server, client: Client) -> None:
    """A duplicate without room gives 507 and leaves the source alone; with room it works."""
    session = client.session("python", session_id="source", data={"code": "print('stored')"})
    session.run(f"open('large', 'wb').write(b'x' * {28 * MEGABYTE}); x = 1")
    before = session.get()
    for body in ({"id": "copy"}, {"id": "copy", "variables": False}):
        answer = client.http.post(f"{session.path}/duplicate", json=body)
        check_error(answer, 507, "INSUFFICIENT_STORAGE")
        check_error(client.http.get("/api/sessions/copy"), 404, "SESSION_NOT_FOUND")
        assert len(list((server.data_dir / "sessions").iterdir())) == 1
    assert session.get() == before
    check(
        session.run("import os; print(x, os.path.getsize('large'))"), stdout=f"1 {28 * MEGABYTE}\n"
    )
    session.run(f"open('large', 'wb').write(b'y' * {10 * MEGABYTE})")
    answer = client.http.post(f"{session.path}/duplicate", json={"id": "copy"})
    assert answer.status_code == 201, answer.text
    check(answer.json(), file_count=1, total_size_bytes=10 * MEGABYTE)
    check(client.http.post("/api/sessions/copy/run", json={}).json(), stdout="stored\n")
