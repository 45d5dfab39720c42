"""KV's handlers: bodies that do not come, and answers in turns."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from era_kernels.web import kv
from tests.waiting import wait_until
from tests.web.serving import ServerUnderTest, parse_response, read_all

HEAD = b"PUT /api/storage/kv/n/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n"


def test_body_that_never_comes(server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not send what it announced loses its connection, and puts nothing."""
    monkeypatch.setattr(kv, "BODY_TIMEOUT", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(HEAD + b'{"value"')
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 5
    assert server.http.get("/api/storage/kv/n").json()["keys"] == []


def test_connection_lives_on(server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a body counts for that body only, not for the answer or the next request."""
    monkeypatch.setattr(kv, "BODY_TIMEOUT", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        for _ in range(3):
            sock.sendall(HEAD + b'{"value":"v"}')
            assert parse_response(read_all(sock, 0.4)).json() == {"success": True}
    server.http.delete("/api/storage/kv/n/k").raise_for_status()


def test_beside_a_run(server: ServerUnderTest, session: str) -> None:
    """While a program runs, all requests to KV are answered all the same."""
    run = threading.Thread(
        target=server.http.post, args=(f"{session}/run",), kwargs={"json": {"code": "sleep 1"}}
    )
    run.start()
    time.sleep(0.2)
    for number in range(50):
        path = f"/api/storage/kv/n/{number}"
        server.http.put(path, json={"value": f"{number}"}).raise_for_status()
        assert server.http.get(path).json()["value"] == f"{number}"
        server.http.delete(path).raise_for_status()
    run.join()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_no_handler_is_left(server: ServerUnderTest, method: str) -> None:
    """After any answer, error or not, no handler counts as active."""
    for path in ("/api/storage/kv/n/none", "/api/storage/kv/-", "/api/storage/kv/n"):
        server.http.request(method, path, content=b"{")
    answer = server.http.put("/api/storage/kv/n/k", content=b"x" * 20_000_000)
    assert answer.status_code == 413
    context = server.context
    assert wait_until(lambda: not context.storage_turns.members and not context.active_handlers)


LARGE = b'{"value":"%b"}' % (
    b"\\u0061" * 900_000
)  # more than max_body, in escapes of a short value
CHUNKED = (
    b"PUT /api/storage/kv/n/%d HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
)
DECLARED = b"PUT /api/storage/kv/n/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def _start_large(server: ServerUnderTest, number: int, *, is_chunked: bool) -> socket.socket:
    """Sends a large body but for its end."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    if is_chunked:
        sock.sendall(CHUNKED % number + b"%x\r\n" % len(LARGE) + LARGE[:-1])
    else:
        sock.sendall(DECLARED % (number, len(LARGE)) + LARGE[:-1])
    return sock


@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "declared"])
def test_large_bodies(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, is_chunked: bool
) -> None:
    """Two large bodies are read at once; the next one is told to wait, and short ones are not."""
    monkeypatch.setattr(kv, "LARGE_BODY_WAIT", 0.3)
    slots = server.context.large_bodies
    path = "/api/storage/kv/n/k"

    def put_large() -> int:
        content = iter([LARGE]) if is_chunked else LARGE
        return server.http.put(path, content=content).status_code

    assert put_large() == 200
    first, second = (_start_large(server, number, is_chunked=is_chunked) for number in (1, 2))
    assert wait_until(slots.locked)
    assert put_large() == 503
    assert server.http.put(path, json={"value": "short"}).status_code == 200
    second.close()  # a client that leaves gives its place back
    assert wait_until(lambda: not slots.locked())
    assert put_large() == 200
    first.sendall(LARGE[-1:] + b"\r\n0\r\n\r\n" * is_chunked)
    assert parse_response(read_all(first)).json() == {"success": True}
    first.close()
    for key in ("k", "1"):
        server.http.delete(f"/api/storage/kv/n/{key}").raise_for_status()
    assert wait_until(lambda: slots._value == 2)
