"""Objects of R2 in a real server: kills, full disks, bounds, and big ones in little memory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.api_caller import peak_growth
from tests.client import Client
from tests.contract.checks import check_error
from tests.server_process import Launcher, Server
from tests.system.disks import launcher_on_disk
from tests.system.rounds import rounds_of_kills
from tests.system.test_crash import busy_clients
from tests.waiting import wait_until

MEGABYTE = 1024 * 1024
GROWTH = 30 * MEGABYTE
BLOCK = bytes(range(256)) * 1024  # 256 KiB
SPACE = "/api/storage/r2/space"
RAW = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}


def blobs(server: Server) -> list[Path]:
    return list((server.data_dir / "r2").glob("??/*"))


def incoming(server: Server) -> list[Path]:
    return list((server.data_dir / "r2" / "incoming").iterdir())


def put(client: Client, key: str, body: Any) -> httpx.Response:
    return client.http.put(f"{SPACE}/{key}", content=body, headers=RAW, timeout=600)


# ---------------------------------------------------------------- memory


def blocks(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes * 4):
        yield BLOCK


@pytest.mark.parametrize(
    "megabytes",
    [100, pytest.param(1024, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
)
def test_up_and_down(server: Server, client: Client, megabytes: int) -> None:
    """Up without a length, down as bytes, and down as JSON: the server's memory stays flat."""
    expected = hashlib.md5()
    for block in blocks(megabytes):
        expected.update(block)
    put(client, "warm", BLOCK)
    client.http.get(f"{SPACE}/warm")
    with peak_growth(server.process.pid) as grown:
        answer = put(client, "big", blocks(megabytes))
        assert answer.json() == {"success": True, "size": megabytes * MEGABYTE}
        got = hashlib.md5()
        with client.http.stream("GET", f"{SPACE}/big", headers=RAW) as down:
            for piece in down.iter_raw():
                got.update(piece)
        assert got.digest() == expected.digest()
        got, head, rest, size = hashlib.md5(), b'{"content":"', b"", 0
        with client.http.stream("GET", f"{SPACE}/big") as down:
            for piece in down.iter_raw():
                size += len(piece)
                text = rest + piece.removeprefix(head)
                end = text.find(b'"')
                whole = (len(text) if end < 0 else end) // 4 * 4
                got.update(base64.b64decode(text[:whole], validate=True))
                rest, head = text[whole:], b""
        assert size == int(down.headers["Content-Length"])
    described = json.loads(b"{" + rest.removeprefix(b'",'))
    assert described["size"] == megabytes * MEGABYTE
    assert got.hexdigest() == described["etag"] == expected.hexdigest()
    assert grown[0] < GROWTH, grown


# ---------------------------------------------------------------- bounds and full disks


def test_bounds(launcher: Launcher) -> None:
    """max_object and both quotas hold, before the body and in it, by either form."""
    server = launcher.start(
        "--max-object", "3M", "--namespace-quota", "5M", "--storage-quota", "7M"
    )
    client = server.connect()
    for body in (BLOCK * 13, blocks(4)):
        check_error(put(client, "a", body), 413, "TOO_LARGE")
    as_json = {"content": base64.b64encode(BLOCK * 13).decode()}
    check_error(client.http.put(f"{SPACE}/a", json=as_json), 413, "TOO_LARGE")
    assert put(client, "a", BLOCK * 12).status_code == 200
    for body in (BLOCK * 9, iter([BLOCK] * 9)):
        check_error(put(client, "b", body), 413, "QUOTA_EXCEEDED")
    as_json = {"content": base64.b64encode(BLOCK * 9).decode()}
    check_error(client.http.put(f"{SPACE}/b", json=as_json), 413, "QUOTA_EXCEEDED")
    check_error(put(client, "b", BLOCK * 8), 413, "QUOTA_EXCEEDED")  # keys take room, too
    assert put(client, "b", BLOCK * 7).status_code == 200
    other = client.http.put("/api/storage/r2/other/k", content=BLOCK * 9, headers=RAW)
    check_error(other, 413, "QUOTA_EXCEEDED")
    assert put(client, "a", BLOCK).status_code == 200
    assert put(client, "c", BLOCK).status_code == 200
    assert wait_until(lambda: len(blobs(server)) == 3 and not incoming(server))


def test_full_disk(tmp_path: Path) -> None:
    """An object that finds no room is 507 and leaves the old one; others are read and deleted."""
    with launcher_on_disk(tmp_path, "48M") as launcher:
        server = launcher.start()
        client = server.connect()
        assert put(client, "k", b"old").status_code == 200
        assert put(client, "filler", blocks(24)).status_code == 200
        for body in (BLOCK * 120, blocks(30)):
            check_error(put(client, "k", body), 507, "INSUFFICIENT_STORAGE")
            assert wait_until(lambda: not incoming(server))
            assert client.http.get(f"{SPACE}/k", headers=RAW).content == b"old"
        assert client.http.get("/health").json()["status"] == "healthy"
        client.http.delete(f"{SPACE}/filler").raise_for_status()
        assert wait_until(lambda: len(blobs(server)) == 1)
        assert put(client, "k", blocks(20)).status_code == 200


def test_lost_bytes(launcher: Launcher) -> None:
    """A row whose blob is gone is told by /health and the log, and is still listed."""
    server = launcher.start()
    client = server.connect()
    put(client, "a", b"1")
    put(client, "b", b"2")
    [lost] = [blob for blob in blobs(server) if blob.read_bytes() == b"1"]
    assert "problems" not in client.http.get("/health").json()
    server.kill()
    lost.unlink()
    server = launcher.start()
    client = server.connect()
    health = client.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert "bytes: 1." in health.json()["problems"]["r2"]
    assert lost.name in server.log_text
    check_error(client.http.get(f"{SPACE}/a"), 500, "STORAGE_FAILED")
    assert len(client.http.get(SPACE).json()["objects"]) == 2
    client.http.delete(f"{SPACE}/a").raise_for_status()
    assert "problems" not in client.http.get("/health").json()


# ---------------------------------------------------------------- kills


class Crash:
    """Kills a server in rounds, and keeps what was asked for and what was answered."""

    KEYS = 12

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        # Of each key: the digest that was answered last, and those asked for since (None: deleted).
        self.answered: dict[str, str | None] = {}
        self.open: dict[str, set[str | None]] = {}
        self._locks = [threading.Lock() for _ in range(self.KEYS)]

    def round(self) -> None:
        """Puts and deletes objects until the server is killed, at some moment."""
        server = self._launcher.start()
        client = server.connect()
        self.check(server, client)
        works = [self._worker(client, number) for number in range(4)]
        with busy_clients(*works):
            time.sleep(0.2 + random.random() * 0.8)
            server.kill()

    def _worker(self, client: Client, seed: int) -> Callable[[int], object]:
        chance = random.Random(f"{seed}-{time.monotonic_ns()}")

        def work(number: int) -> None:
            index = chance.randrange(self.KEYS)
            with self._locks[index]:
                self._change(client, f"k{index}", chance)

        return work

    def _change(self, client: Client, key: str, chance: random.Random) -> None:
        data = None
        if chance.randrange(5):
            data = os.urandom(chance.choice([0, 10, 10_000, 1_000_000, 3_000_000]))
        digest = None if data is None else hashlib.md5(data).hexdigest()
        self.open.setdefault(key, set()).add(digest)
        if data is None:
            answer = client.http.delete(f"{SPACE}/{key}")
        elif len(data) < 100_000 and chance.randrange(2):
            body = {"content": base64.b64encode(data).decode()}
            answer = client.http.put(f"{SPACE}/{key}", json=body)
        else:
            answer = put(client, key, data)
        assert answer.status_code == 200, answer.text
        self.answered[key] = digest
        self.open[key].clear()

    def check(self, server: Server, client: Client) -> None:
        """Checks that each object is what was answered or asked for after that, and whole."""
        listed = {one["key"]: one for one in client.http.get(SPACE).json()["objects"]}
        for index in range(self.KEYS):
            key = f"k{index}"
            possible = {self.answered.get(key), *self.open.get(key, set())}
            found = listed.get(key, {}).get("etag")
            assert found in possible, (key, found, possible)
            if found is not None:
                data = client.http.get(f"{SPACE}/{key}", headers=RAW).content
                assert hashlib.md5(data).hexdigest() == found
                assert len(data) == listed[key]["size"]
            self.answered[key] = found
            self.open[key] = set()
        assert wait_until(lambda: len(blobs(server)) == len(listed))
        assert not incoming(server)
        assert "problems" not in client.http.get("/health").json()


@rounds_of_kills(900)
def test_kill_under_load(launcher: Launcher, rounds: int) -> None:
    """Whenever the server is killed, answered objects are there, none is half, no blob is left."""
    crash = Crash(launcher)
    for _ in range(rounds):
        crash.round()
    server = launcher.start()
    client = server.connect()
    crash.check(server, client)


def test_many_clients_that_vanish(server: Server, client: Client) -> None:
    """Uploads that end in the middle leave neither objects nor files."""
    before = len(blobs(server))

    def vanish(number: int) -> None:
        def body() -> Iterator[bytes]:
            yield BLOCK
            raise ConnectionError

        with pytest.raises(ConnectionError):
            put(client, f"gone{number}", body())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vanish, range(40)))
    assert wait_until(lambda: not incoming(server))
    assert len(blobs(server)) == before
    listed = client.http.get(SPACE, params={"prefix": "gone"}).json()
    assert listed["objects"] == []
