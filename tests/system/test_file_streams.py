"""A real server moves big files in little memory, within limits, and survives kills."""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from benchmarks.api_caller import peak_growth
from tests.client import Client, SessionClient
from tests.contract.checks import check_error
from tests.server_process import Launcher, Server
from tests.system.rounds import rounds_of_kills
from tests.waiting import wait_until

MEGABYTE = 1024 * 1024
BLOCK = bytes(range(256)) * 1024  # 256 KiB
GROWTH = 25 * MEGABYTE


def blocks(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes * 4):
        yield BLOCK


@pytest.mark.parametrize(
    "megabytes",
    [50, pytest.param(1024, marks=[pytest.mark.long, pytest.mark.timeout(600)])],
)
def test_up_and_down(server: Server, session: SessionClient, megabytes: int) -> None:
    """A body without a length goes up, and down: memory stays flat, every byte is the same."""
    path, size = f"{session.path}/files/big", megabytes * MEGABYTE
    expected, got = hashlib.sha256(), hashlib.sha256()
    for block in blocks(megabytes):
        expected.update(block)
    session.http.put(f"{session.path}/files/warm", content=BLOCK)
    with peak_growth(server.process.pid) as grown:
        answer = session.http.put(path, content=blocks(megabytes), timeout=300)
        assert answer.json() == {"path": "big", "size": size}
        with session.http.stream("GET", path) as down:
            assert down.headers["Content-Length"] == str(size)
            for piece in down.iter_raw():
                got.update(piece)
    assert got.digest() == expected.digest()
    assert grown[0] < GROWTH, grown


def test_slow_readers_cost_little(server: Server, session: SessionClient) -> None:
    """Twenty clients that read nothing of a big file cost little memory."""
    session.http.put(f"{session.path}/files/big", content=blocks(30))
    host, port = server.base_url.removeprefix("http://").split(":")
    ask = f"GET {session.path}/files/big HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with peak_growth(server.process.pid) as grown:
        wires = [socket.create_connection((host, int(port))) for _ in range(20)]
        for wire in wires:
            wire.sendall(ask)
        time.sleep(1)
        for wire in wires:
            wire.close()
    assert grown[0] < 2 * GROWTH, grown


def test_descriptors(server: Server, session: SessionClient) -> None:
    """However requests end, the server closes the files that it opened."""
    process = psutil.Process(server.process.pid)
    session.http.put(f"{session.path}/files/f", content=b"x" * 3_000_000)

    def round_trip(number: int) -> None:
        session.http.get(f"{session.path}/files/f")
        session.http.get(f"{session.path}/files/none")
        session.http.put(f"{session.path}/files/f/in/the/way", content=b"x")
        session.http.put(f"{session.path}/files/g", content=b"x")
        session.http.delete(f"{session.path}/files/g")
        host, port = server.base_url.removeprefix("http://").split(":")
        for head in (
            f"PUT {session.path}/files/h HTTP/1.1\r\nContent-Length: 99",
            f"GET {session.path}/files/f HTTP/1.1",
        ):
            with socket.create_connection((host, int(port))) as wire:
                wire.sendall(f"{head}\r\nHost: localhost\r\n\r\n".encode())

    for number in range(5):
        round_trip(number)
    time.sleep(0.5)
    before = process.num_fds()
    for number in range(40):
        round_trip(number)
    assert wait_until(lambda: process.num_fds() <= before + 2), (before, process.num_fds())
    assert wait_until(lambda: not any((server.data_dir / "incoming").iterdir()))


def test_bounds(launcher: Launcher) -> None:
    """max_upload and the quota of a workspace hold, before the body and in it.

    GET /api/limits reports both.
    """
    server = launcher.start("--max-upload", "3M", "--session-workspace", "5M")
    client = server.connect()
    limits = client.http.get("/api/limits").json()
    assert (limits["max_upload"], limits["session_workspace"]) == (3 * MEGABYTE, 5 * MEGABYTE)
    session = client.session("python")
    path = f"{session.path}/files"
    for body in (BLOCK * 13, blocks(4)):
        check_error(client.http.put(f"{path}/a", content=body), 413, "TOO_LARGE")
    assert client.http.put(f"{path}/a", content=BLOCK * 12).status_code == 200
    for body in (BLOCK * 9, blocks(3)):
        check_error(client.http.put(f"{path}/b", content=body), 413, "QUOTA_EXCEEDED")
    assert client.http.put(f"{path}/b", content=BLOCK * 8).status_code == 200
    check_error(client.http.put(f"{path}/c", content=b"x"), 413, "QUOTA_EXCEEDED")
    assert client.http.put(f"{path}/a", content=BLOCK).status_code == 200
    assert client.http.put(f"{path}/c", content=BLOCK).status_code == 200
    files = {"a": "x" * 5 * MEGABYTE, "b": "x"}
    body = {"language": "python", "code": "", "files": files}
    check_error(client.http.post("/api/execute", json=body), 413, "QUOTA_EXCEEDED")
    assert not any((server.data_dir / "incoming").iterdir())


def test_many_files(session: SessionClient) -> None:
    """10 000 files are listed; the benchmark measures how fast."""
    session.run(
        "import os\nfor d in range(100):\n    os.mkdir(str(d))\n"
        "    for n in range(100): open(f'{d}/{n}', 'w').close()"
    )
    began = time.monotonic()
    shown = session.http.get(f"{session.path}/files").json()
    assert time.monotonic() - began < 5
    assert shown["total_count"] == 10_000
    paths = [file["path"] for file in shown["files"]]
    assert paths == sorted(paths, key=str.encode)


def test_health_while_files_move(server: Server, session: SessionClient) -> None:
    """Uploads and downloads leave the server time for others."""
    slowest = 0.0
    with ThreadPoolExecutor(4) as pool:
        works = [
            pool.submit(session.http.put, f"{session.path}/files/f{n}", content=blocks(20))
            for n in range(4)
        ]
        while not all(work.done() for work in works):
            began = time.monotonic()
            assert session.http.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert {work.result().status_code for work in works} == {200}
    assert slowest < 5


# ---------------------------------------------------------------- kills

SIZES = (0, 1, 70_000, 3 * MEGABYTE)


def _upload(base_url: str, worker: int, known: dict[str, bytes], asked: dict[str, bytes]) -> None:
    """Puts one file repeatedly until the server is gone; notes the requests and responses."""
    path, number = f"/api/sessions/s1/files/d{worker}/f", 0
    with httpx.Client(base_url=base_url, timeout=30) as http:
        while True:
            number += 1
            data = bytes([number % 256]) * SIZES[number % len(SIZES)]
            asked[path] = data
            try:
                answer = http.put(path, content=data)
            except httpx.HTTPError:
                return
            assert answer.status_code == 200
            known[path] = data


def check_uploads(client: Client, known: dict[str, bytes], asked: dict[str, bytes]) -> None:
    """Checks that each file is whole, as answered or last sent."""
    for path in known:
        found = client.http.get(path).content
        assert found in (known[path], asked[path]), (path, len(found))
        known[path] = found
    assert len(client.http.get("/api/sessions/s1/files").json()["files"]) <= 4


@rounds_of_kills(1200)
def test_kill_in_the_middle_of_uploads(launcher: Launcher, rounds: int) -> None:
    """Files are whole after kills in the middle of uploads."""
    known: dict[str, bytes] = {}
    asked: dict[str, bytes] = {}
    for number in range(rounds + 1):
        server = launcher.start()
        client = server.connect()
        assert not any((server.data_dir / "incoming").iterdir())
        if not number:
            client.session("python", session_id="s1")
        check_uploads(client, known, asked)
        if number == rounds:
            break
        asked = dict(known)
        with ThreadPoolExecutor(4) as pool:
            works = [pool.submit(_upload, server.base_url, n, known, asked) for n in range(4)]
            have_begun = wait_until(lambda: len(known) == 4, 60)
            time.sleep(0.3 + (number % 7) / 10)
            server.kill()
            for work in works:
                work.result()
        assert have_begun


def test_sigterm_in_the_middle_of_an_upload(launcher: Launcher) -> None:
    """The server exits in time; neither the file nor a part of the upload is left."""
    server = launcher.start("--shutdown-grace", "0.5")
    client = server.connect()
    session = client.session("python")
    wire = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=20)
    wire.putrequest("PUT", f"{session.path}/files/f")
    wire.putheader("Content-Length", "1000000")
    wire.endheaders(b"x" * 10)
    assert wait_until(lambda: any((server.data_dir / "incoming").iterdir()))
    assert server.stop() == 0
    wire.close()
    server = launcher.start()
    assert not any((server.data_dir / "incoming").iterdir())
