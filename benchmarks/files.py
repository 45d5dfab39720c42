"""Measures file transfers beside a bare handler, the server's memory, and long lists."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.api_caller import Caller, peak_growth
from benchmarks.table import MEGABYTE, Row, ms
from tests.server_process import Server

PIECE = 256 * 1024
FILE_COUNT = 10_000
BODY = bytes(range(256)) * (PIECE // 256)
FILES_PATH = "/api/sessions/files/files"
MAKE_FILES_PROGRAM = f"""
import os
for folder in range(100):
    os.mkdir(f"d{{folder:02}}")
    for number in range({FILE_COUNT // 100}):
        with open(f"d{{folder:02}}/f{{number:03}}.txt", "w") as file:
            file.write("small")
"""


def rows(caller: Caller, server: Server, megabytes: list[int]) -> Iterator[Row]:
    """Yields the rows of one session, with files of so many MB."""
    caller.call("POST", "/api/sessions", {"language": "python", "session_id": "files"})
    with bare_server() as peer:
        for size in megabytes:
            yield from transfer_rows(server, peer, Transfer("", f"{FILES_PATH}/f", size, 25))
    caller.call("POST", "/api/sessions/files/run", {"code": MAKE_FILES_PROGRAM})
    taken = median(_list_seconds(caller) for _ in range(5))
    yield Row(f"{FILE_COUNT} files listed", ms(taken), "< 300 ms", taken < 0.3)
    caller.call("DELETE", "/api/sessions/files")


@dataclass(frozen=True)
class Transfer:
    """What is moved: to and from which path, how many MB, and by how many the server may grow."""

    label: str
    path: str
    size: int
    max_growth: int
    headers: Mapping[str, str] = field(default_factory=dict)


def transfer_rows(server: Server, peer: str, transfer: Transfer) -> Iterator[Row]:
    """Yields the rows of one transfer up and down, beside the bare handler at `peer`."""
    server_host, size = server.base_url.removeprefix("http://"), transfer.size
    path, headers, bound = transfer.path, transfer.headers, transfer.max_growth
    rounds = 5 if size < 500 else 1
    for what, move in (("up", _put), ("down", _get)):
        with peak_growth(server.process.pid) as growths:
            pairs = [
                (move(peer, "/f", size, {}), move(server_host, path, size, headers))
                for _ in range(rounds)
            ]
        bare_seconds = median(bare for bare, _ in pairs)
        taken = median(own for _, own in pairs)
        ratio = bare_seconds / taken
        figure = f"{size / taken:.0f} MB/s = {ratio:.2f} x bare"
        yield Row(f"{transfer.label}{size} MB {what}", figure, "≥ 0.5 x bare", ratio >= 0.5)
        growth = growths[0] / MEGABYTE
        figure, target = f"{growth:.1f} MB", f"< {bound} MB"
        yield Row("   server's memory grew by at most", figure, target, growth < bound)


def _put(host: str, path: str, size: int, headers: Mapping[str, str]) -> float:
    """Returns the seconds until so many MB are stored, safe on disk."""
    connection = http.client.HTTPConnection(host, timeout=300)
    pieces = [BODY] * (size * MEGABYTE // PIECE)
    began = time.perf_counter()
    length = {"Content-Length": str(size * MEGABYTE)}
    connection.request("PUT", path, iter(pieces), {**headers, **length})
    response = connection.getresponse()
    response.read()
    taken = time.perf_counter() - began
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"PUT {path}: {response.status}")
    return taken


def _get(host: str, path: str, size: int, headers: Mapping[str, str]) -> float:
    """Returns the seconds until so many MB have arrived."""
    connection = http.client.HTTPConnection(host, timeout=300)
    began = time.perf_counter()
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    buffer, got = memoryview(bytearray(PIECE)), 0
    while count := response.readinto(buffer):
        got += count
    taken = time.perf_counter() - began
    connection.close()
    if got != size * MEGABYTE:
        raise RuntimeError(f"GET {path}: {got} bytes")
    return taken


def _list_seconds(caller: Caller) -> float:
    began = time.perf_counter()
    found = caller.call("GET", FILES_PATH)["total_count"]
    taken = time.perf_counter() - began
    if found < FILE_COUNT:
        raise RuntimeError(f"{found} files are listed")
    return taken


@contextmanager
def bare_server() -> Iterator[str]:
    """Starts the bare handler in a process of its own, on the same disk; yields host and port."""
    with (
        tempfile.TemporaryDirectory(prefix="era-bench-") as directory,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_upload", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()
