"""A large body, or message, never stops others for long, whatever is in it and in which field.

`python -m benchmarks.stops` measures all fields and heads; these are the worst of them.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.output_bombs import STATUS_OF_LISTS
from tests.watched_server import Watch, watched_server

MAX_STOP = 0.25  # seconds of processor time; 0.1 on a quiet machine
ATTEMPTS = 3
VALUES = 990_000
SESSION = "/api/sessions/stopped"
BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lists as data": (
        f"{SESSION}/run",
        lambda: b'{"code":"","update_data":{"a":[%b1]}}' % (b"[]," * VALUES),
    ),
    "texts in no known field": (
        f"{SESSION}/run", lambda: b'{"code":"","a":[%b1]}' % (b'"abcdefgh",' * VALUES)
    ),
    "deep lists as code": (
        f"{SESSION}/run",
        lambda: b'{"code":[%b1]}' % ((b"[" * 190 + b"1" + b"]" * 190 + b",") * 5000),
    ),
    "an emoji in code": (
        f"{SESSION}/run", lambda: b'{"code":"%b"}' % (b"x" * (31 << 20) + "😀".encode())
    ),
    "lists for arguments": (f"{SESSION}/exec", lambda: b'{"argv":[%b1]}' % (b"[]," * VALUES)),
    "a long argument": (
        f"{SESSION}/exec", lambda: b'{"argv":["true","%b"]}' % (b"x" * (31 << 20))
    ),
    "arguments": (f"{SESSION}/exec", lambda: b'{"argv":[%b"a"]}' % (b'"abcdefgh",' * VALUES)),
    "lists for mounts": (
        "/api/sessions", lambda: b'{"language":"python","mounts":[%b1]}' % (b"[]," * VALUES)
    ),
    "lists for files": (
        "/api/execute",
        lambda: b'{"language":"python","code":"","files":{%b}}'
        % b",".join(b'"%d":[]' % n for n in range(100_000)),
    ),
    "lists in a kernel's message": (
        f"{SESSION}/run", lambda: json.dumps({"code": STATUS_OF_LISTS, "timeout": 60}).encode()
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    with watched_server() as watch:
        send(watch, "/api/sessions", b'{"language":"python","session_id":"stopped"}')
        send(watch, f"{SESSION}/run", b'{"code":""}')
        yield watch


def send(watch: Watch, path: str, body: bytes) -> int:
    host = watch.server.base_url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=100)) as connection:
        connection.request("POST", path, body)
        response = connection.getresponse()
        response.read()
        return response.status


@pytest.mark.parametrize("name", BODIES)
def test_stop(watch: Watch, name: str) -> None:
    """Nobody waits for longer than moments; a busy machine may take more, but not each time."""
    path, make = BODIES[name]
    body = make()
    stops: list[float] = []
    while not stops or (min(stops) > MAX_STOP and len(stops) < ATTEMPTS):
        stops.append(watch.longest_stop(lambda: send(watch, path, body)))
    assert 0 < min(stops) <= MAX_STOP, stops
