"""The listening server: malformed HTTP, slow and vanished clients, large rejections."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from era_kernels.errors import StartError
from era_kernels.storage.resource_stores import ResourceStores
from era_kernels.web import base_handler as base_module
from era_kernels.web import connection_limit, head_search
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.routes import Services, make_application
from era_kernels.web.server import WebServer
from tests.waiting import wait_until
from tests.web.fakes import (
    FakeExecutionService,
    FakeFileService,
    FakeIdempotentRuns,
    FakeServerInfo,
    FakeSessionService,
)
from tests.web.serving import ServerUnderTest, parse_response, read_all, run_server

HEAD = b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\n"


def test_server_lives_on(server: ServerUnderTest) -> None:
    """After all that the server answers."""
    server.send_raw(b"\x00" * 100_000)
    assert server.http.get("/health").status_code == 200


def test_repeated_equal_length(server: ServerUnderTest) -> None:
    """A length that a proxy repeated is one length."""
    reply = server.send_and_parse(HEAD + b"Content-Length: 2, 2\r\n\r\n{}")
    assert reply.status == 400
    assert "language" in reply.json()["message"]


def test_expect_continue(server: ServerUnderTest) -> None:
    """A client with `Expect` gets 100, or 413 before it sent a body that is too large."""
    small = server.send_raw(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
    assert small.startswith(b"HTTP/1.1 100 ")
    large = server.send_and_parse(
        HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert (large.status, large.json()["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    ("extra", "status"),
    [(b"Content-Length: 999999999999\r\n", 413), (b"Content-Length: 20000000\r\n", 413)],
)
def test_giant_declared(server: ServerUnderTest, extra: bytes, status: int) -> None:
    """A giant that is only declared costs nothing; a client that then sends it gets its answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(HEAD + extra + b"\r\n")
        if b"999999" not in extra:
            with contextlib.suppress(OSError):  # who sends on is cut off, and reads all the same
                sock.sendall(b"x" * 20_000_000)
        reply = parse_response(read_all(sock))
    assert (reply.status, reply.json()["code"]) == (status, "TOO_LARGE")


def test_endless_chunks(server: ServerUnderTest) -> None:
    """A body without an end is cut off after a bounded part."""
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        try:
            while sent < 300:
                sock.sendall(piece)
                sent += 1
        except OSError:
            pass
    assert sent < 20
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "start", [b"", b"GET /hea", HEAD + b"Content-Length: 10\r\n\r\n{", HEAD[:-2]]
)
def test_slow_clients(start: bytes) -> None:
    """Who does not finish a request in time is disconnected."""
    with (
        run_server(idle_timeout=0.5, body_timeout=0.5) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.sendall(start)
        began = time.monotonic()
        assert sock.recv(1000) == b""
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("pause_at", range(1, 8))
def test_a_head_that_comes_in_parts(server: ServerUnderTest, pause_at: int) -> None:
    """Its end is found wherever it is torn, and the next head is found as well."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000 + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (head[:20], head[20:-pause_at], head[-pause_at:], head[:4000], head[4000:]):
            sock.sendall(part)
            time.sleep(0.02)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2:
            more = sock.recv(65536)
            assert more
            answers += more


def test_heads_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long heads that come byte by byte take the loop no longer than short ones."""
    searched = 0
    search = head_search.HeadIOStream._find_read_pos

    def count(stream: head_search.HeadIOStream) -> int | None:
        nonlocal searched
        before = stream._searched
        found = search(stream)
        if stream._read_regex is not None:
            searched += len(stream._read_buffer) - max(0, before - 3)
        return found

    monkeypatch.setattr(head_search.HeadIOStream, "_find_read_pos", count)
    with (
        run_server() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 50_000)
        for _ in range(100):
            sock.sendall(b"x")
            time.sleep(0.002)
        sock.sendall(b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert 50_000 <= searched < 60_000


def test_dripping_body() -> None:
    """A body that comes a byte at a time does not hold its connection beyond the timeout."""
    with (
        run_server(body_timeout=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        with pytest.raises(OSError):  # broken pipe or reset
            for _ in range(100):
                sock.sendall(b"x")
                time.sleep(0.1)


def test_pipelining_is_bounded(server: ServerUnderTest, session: str) -> None:
    """What a client sends before anybody asked for it stays in the socket, not in memory."""
    body = b'{"code":"sleep 20"}'
    run = b"POST %s/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as sock:
        sock.sendall(run % (session.encode(), len(body), body))
        with pytest.raises(TimeoutError):
            for _ in range(64):
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000)


def test_reader_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing costs bounded memory, and is cut off after a while."""
    monkeypatch.setattr(connection_limit, "UNACKNOWLEDGED_TIMEOUT", 1.0)
    with run_server() as server, socket.socket() as sock:
        server.http.post("/api/sessions", json={"language": "lingo", "session_id": "s1"})
        server.http.post("/api/sessions/s1/run", json={"code": "endless"})
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        path = b"/api/sessions/s1/executions/exec-1/stream"
        sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wait_until(lambda: server.executions.batches_taken > 0)
        time.sleep(0.5)
        assert server.executions.batches_taken < 200
        assert wait_until(lambda: server.executions.is_closed, 20)


def test_connection_cap() -> None:
    """Beyond the limit a connection is rejected in JSON; a closed one makes room at once."""
    with run_server(max_connections=2) as server:
        address = ("127.0.0.1", server.port)
        first, second = socket.create_connection(address), socket.create_connection(address)
        with first, second:
            for sock in (first, second):
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert parse_response(read_all(sock)).status == 200
            reply = server.send_and_parse(HEAD + b"Content-Length: 2\r\n\r\n{}")
            assert (reply.status, reply.json()["code"]) == (503, "CAPACITY")
            assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
            first.close()
            assert wait_until(
                lambda: server.send_and_parse(b"GET /health HTTP/1.0\r\n\r\n").status == 200
            )


@contextlib.contextmanager
def known_client(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection that keeps its place, for something valid has come from it."""
    with socket.create_connection(address) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert parse_response(read_all(sock)).status == 200
        yield sock


def test_rejected_client_that_never_reads() -> None:
    """A rejected client that does not leave is cut off after a moment."""
    with run_server(max_connections=1) as server:
        address = ("127.0.0.1", server.port)
        with known_client(address), socket.create_connection(address, 10) as sock:
            assert b"503" in read_all(sock, 5)
            time.sleep(1.5)
            with pytest.raises(OSError):  # broken pipe or reset
                for _ in range(3):
                    sock.sendall(b"x")
                    time.sleep(0.1)


def test_many_rejected_clients() -> None:
    """Words are for so many at once; the rest is closed without any, and the server lives."""
    with run_server(max_connections=1) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        first = stack.enter_context(known_client(address))
        rest = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
        said = [read_all(sock, 0.5) for sock in rest]
        assert 60 <= len([one for one in said if b"503" in one]) <= 80
        first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert parse_response(read_all(first)).status == 200


@pytest.mark.parametrize("start", [b"", HEAD + b"Content-Length: 10\r\n\r\n{", HEAD])
def test_half_open_clients(start: bytes) -> None:
    """A client that ends its side in the middle of a request is let go at once."""
    with (
        run_server() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock,
    ):
        sock.sendall(start)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1000) == b""


def test_port_in_use() -> None:
    """A port that is taken is reported in a sentence that says what to do."""
    sessions = FakeSessionService()
    context = HandlerContext(Access(), 1000)
    services = Services(
        sessions=sessions,  # type: ignore[arg-type]
        executions=FakeExecutionService(sessions),  # type: ignore[arg-type]
        server_info=FakeServerInfo(),  # type: ignore[arg-type]
        codes=None,  # type: ignore[arg-type]
        files=FakeFileService(sessions),  # type: ignore[arg-type]
        idempotent_runs=FakeIdempotentRuns(sessions),  # type: ignore[arg-type]
        inspection=None,  # type: ignore[arg-type]
        links=None,  # type: ignore[arg-type]
        logs=None,  # type: ignore[arg-type]
        proxies=None,  # type: ignore[arg-type]
        stored_code_requests=None,  # type: ignore[arg-type]
        resources=ResourceStores(None, None, None, None),  # type: ignore[arg-type]
    )
    application = make_application(services, context)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(StartError, match=r": the address is in use\. .*--port"):
            WebServer.open(application, context, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(StartError, match="cannot listen"):
            WebServer.open(application, context, "no such host", 0)


TOKEN = "t" * 32
KNOWN = {"Authorization": f"Bearer {TOKEN}"}
STRANGERS = [
    b"", HEAD[:20], HEAD + b"Content-Length: 1000\r\n\r\n{", HEAD + b"Content-Length: 2\r\n\r\n{}",
]  # fmt: skip


@pytest.mark.parametrize("start", STRANGERS, ids=range(4))
def test_strangers_lock_nobody_out(start: bytes) -> None:
    """On a server with tokens, any number of slow clients without one leaves the others places."""
    with (
        run_server(Access(tokens=[TOKEN]), max_connections=20) as server,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", server.port)
        kept = stack.enter_context(httpx.Client(base_url=server.url, headers=KNOWN))
        assert kept.get("/api/sessions").status_code == 200
        for _ in range(3):
            for _ in range(30):
                sock = stack.enter_context(socket.create_connection(address))
                sock.sendall(start)
            assert kept.get("/api/sessions").status_code == 200
            for _ in range(3):
                assert httpx.get(f"{server.url}/api/sessions", headers=KNOWN).status_code == 200


def test_slow_bodies_lock_nobody_out() -> None:
    """On a server without tokens a whole request is what shows that a client is no stranger."""
    with run_server(max_connections=20) as server, contextlib.ExitStack() as stack:
        kept = stack.enter_context(httpx.Client(base_url=server.url))
        assert kept.post("/api/execute", content=b"{").status_code == 400
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            sock.sendall(STRANGERS[2])
        assert kept.get("/health").status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_slow_refused_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused body is waited for a moment; then the answer comes without it, and can be read."""
    monkeypatch.setattr(base_module, "DISCARD_TIMEOUT", 0.5)
    with (
        run_server(Access(tokens=[TOKEN])) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        began = time.monotonic()
        reply = parse_response(read_all(sock, 5))
        assert 0.3 < time.monotonic() - began < 4
        assert (reply.status, reply.headers["connection"]) == (401, "close")
        with contextlib.suppress(OSError):
            sock.sendall(b"x" * 10)


@pytest.mark.parametrize("size", [1000, 63 * 1024])
def test_refusal_of_a_short_body_keeps_the_connection(size: int) -> None:
    """Two requests on one connection, the first with a body that is refused."""
    with run_server(Access(tokens=[TOKEN])) as server:
        raw = server.send_raw(
            HEAD + b"Content-Length: %d\r\n\r\n%s" % (size, b"x" * size)
            + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )  # fmt: skip
        assert raw.count(b"HTTP/1.1 401") == raw.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_large_refused_body(chunked: bool) -> None:
    """Of a large one no more than a bounded part is read, and its client gets the answer."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 50000000"
    with (
        run_server(Access(tokens=[TOKEN])) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.sendall(HEAD + framing + b"\r\n\r\n")
        sent = 0
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n" if chunked else b"x" * 65536
        with contextlib.suppress(OSError):
            while sent < 50_000_000:
                sock.sendall(piece)
                sent += len(piece)
        assert sent < 20_000_000
        assert parse_response(read_all(sock, 5)).status == 401
