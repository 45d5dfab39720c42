"""What is passed on to a program of a session, and what comes back: byte for byte, on sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest

from era_kernels.errors import AtCapacity, GatewayTimeout, NotEnforceable
from era_kernels.web import proxy
from era_kernels.web.access import Access
from era_kernels.web.connection_limit import Client, client_of
from tests.waiting import wait_until
from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest, run_server

TOKEN = "t" * 32
PORT = 8000
POLICY = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Program:
    """A program that answers each connection with a script, and keeps what it was sent."""

    script: Callable[[socket.socket, bytes], None]
    heads: list[bytes] = field(default_factory=list)
    closed: int = 0  # connections

    def serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                one, _ = listening.accept()
                threading.Thread(target=self.talk, args=(one,), daemon=True).start()

    def talk(self, one: socket.socket) -> None:
        one.settimeout(20)
        with closing(one), suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := one.recv(1)):
                    return
                head += data
            self.heads.append(head)
            self.script(one, head)
        self.closed += 1

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the last request, by their names in lower case."""
        lines = self.heads[-1].decode("latin1").split("\r\n")[1:-2]
        return {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}

    @property
    def names(self) -> list[str]:
        return [
            one.partition(b":")[0].decode().lower() for one in self.heads[-1].split(b"\r\n")[1:-2]
        ]


@contextmanager
def program(
    server: ServerUnderTest, answer: bytes | Callable[[socket.socket, bytes], None] = OK
) -> Iterator[Program]:
    """A program on the session's port."""

    def send(one: socket.socket, head: bytes) -> None:
        assert isinstance(answer, bytes)
        one.sendall(answer)

    served = Program(send if isinstance(answer, bytes) else answer)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.proxies.served[PORT] = listening.getsockname()[1]
        threading.Thread(target=served.serve, args=(listening,), daemon=True).start()
        try:
            yield served
        finally:
            server.proxies.served.clear()
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def place(session: str) -> str:
    return f"/proxy/s1/{PORT}"


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("method", proxy.METHODS)
def test_methods(server: ServerUnderTest, place: str, method: str) -> None:
    """Every method of HTTP and WebDAV comes through, with path and query as they are written."""
    answer = OK if method != "HEAD" else OK[:-2]
    with program(server, answer) as served:
        got = server.http.request(method, f"{place}/a%2Fb/%C3%A9?x=1&y=%20&x=2")
        assert (got.status_code, got.text) == (200, "" if method == "HEAD" else "ok")
        assert got.headers["Content-Length"] == "2"
    assert served.heads[0].startswith(f"{method} /a%2Fb/%C3%A9?x=1&y=%20&x=2 HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a", "/?a"),
        ("/?", "/?"),
        ("//a//b", "//a//b"),
        ("/../../x", "/../../x"),
        ("/a?b?c", "/a?b?c"),
        ("/\xe9?\xff", "/%E9?%FF"),
        ("/%00%0d%0a", "/%00%0d%0a"),
        ("/http://other/", "/http://other/"),
    ],
)
def test_targets(server: ServerUnderTest, place: str, asked: str, seen: str) -> None:
    """What stands behind the port is the program's path, unchanged where it may stand in a line."""
    with program(server) as served:
        request = f"GET {place}{asked} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        assert server.send_and_parse(request.encode("latin1")).status == 200
    assert served.heads[0].split(b" ")[1].decode() == seen


@pytest.mark.parametrize(
    ("method", "headers", "is_redirected"),
    [
        ("GET", {"Sec-Fetch-Mode": "navigate"}, True),
        ("HEAD", {"Sec-Fetch-Mode": "navigate"}, True),
        ("GET", {"Accept": "text/html,*/*;q=0.8"}, True),
        ("GET", {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}, False),
        ("GET", {"Sec-Fetch-Mode": "websocket"}, False),
        ("GET", {}, False),
        ("POST", {"Sec-Fetch-Mode": "navigate"}, False),
    ],
)
def test_a_browser_opens_the_port(
    server: ServerUnderTest, place: str, method: str, headers: dict[str, str], is_redirected: bool
) -> None:
    """A browser is sent to the path that ends in a slash, below which relative links lead."""
    with program(server, OK if method != "HEAD" else OK[:-2]) as served:
        got = server.http.request(method, f"{place}?a=b%20c", headers=headers)
        assert (got.status_code == 308, got.status_code == 200) == (
            is_redirected,
            not is_redirected,
        )
        assert len(served.heads) == (not is_redirected)
        if is_redirected:
            assert got.headers["Location"] == f"{place}/?a=b%20c"
            assert "Content-Type" not in got.headers
        below = server.http.request(method, f"{place}/?a=b", headers=headers)
        assert below.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/proxy", "/proxy/", "/proxy/s1", "/proxy/s1/", "/proxy/s1/0/", "/proxy/s1/65536",
     "/proxy/s1/x/",
     "/proxy/s1/-1/", "/proxy/s1/80%2F/", "/proxy//80/", "/proxy/..%2Fs1/80/", "/proxy/s1/+80/"],
)  # fmt: skip
def test_bad_paths(server: ServerUnderTest, session: str, path: str) -> None:
    """A path without a port of a session is 400, and shows how it should look."""
    got = server.http.get(path).json()
    assert got["code"] in ("INVALID_PATH", "INVALID_ID")
    assert got["code"] == "INVALID_ID" or got["format"] == "/proxy/{id}/{port}/{path}"


def test_request_headers(server: ServerUnderTest, place: str) -> None:
    """Headers come through; those of the connection do not, and the server adds its own."""
    sent = [
        ("X-Own", "1"), ("x-own", "2"), ("Cookie", "a=b"), ("Authorization", "Basic eDp5"),
        ("Connection", "keep-alive, X-Drop, Authorization, Cookie, X-Forwarded-For"),
        ("X-Drop", "1"), ("Keep-Alive", "1"), ("TE", "trailers"), ("Upgrade", "h2c"),
        ("HTTP2-Settings", "x"), ("Proxy-Authorization", "x"), ("X-Request-Id", "mine"),
        ("X-Forwarded-For", "6.6.6.6"), ("X_Forwarded_For", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Forwarded-Host", "evil"), ("X-Real-IP", "6.6.6.6"), ("Content_Length", "5"),
        ("X-Forwarded-Prefix", "/evil"), ("Transfer_Encoding", "chunked"), ("X_Own", "3"),
    ]  # fmt: skip
    with program(server) as served:
        server.http.get(f"{place}/", headers=sent)
    seen = served.headers
    host = f"127.0.0.1:{server.port}"
    assert served.names.count("x-own") == 2 and seen["x_own"] == "3"
    assert seen["cookie"] == "a=b" and seen["authorization"] == "Basic eDp5"
    assert seen["connection"] == "close"
    assert (seen["host"], seen["x-forwarded-host"]) == (host, host)
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert (seen["x-forwarded-prefix"], seen["x-request-id"]) == (place, "mine")
    gone = {
        "x-drop", "keep-alive", "te", "upgrade", "http2-settings", "proxy-authorization",
        "x_forwarded_for", "forwarded", "x-real-ip", "content_length", "transfer_encoding",
        "content-length", "transfer-encoding",
    }  # fmt: skip
    assert gone & set(served.names) == set()
    assert len(served.names) - 1 == len(set(served.names))  # X-Own alone is there twice


def body_echo(one: socket.socket, head: bytes) -> None:
    """Answers with the body as it came, framing included."""
    body, wanted = b"", head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    while (len(body) < int(wanted)) if wanted else not body.endswith(b"0\r\n\r\n"):
        if not (data := one.recv(65536)):
            return
        body += data
    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def test_bodies(server: ServerUnderTest, place: str) -> None:
    """A body of a known length keeps it; one of an unknown length comes in chunks."""
    with program(server, body_echo):
        assert server.http.post(f"{place}/", content=b"a=1&b=%20").content == b"a=1&b=%20"
        assert server.http.post(f"{place}/", content=b"").content == b""
        big = b"x" * 3_000_000
        assert server.http.put(f"{place}/", content=big).content == big
        got = server.http.post(f"{place}/", content=iter([b"abc", b"d" * 70_000])).content
        assert got.endswith(b"\r\n0\r\n\r\n") and got.count(b"d") == 70_000


def test_permission_to_send(server: ServerUnderTest, place: str) -> None:
    """A client that asks before it sends is told to, or gets the error at once."""
    ask = f"POST {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n"
    ask += "Expect: 100-continue\r\n\r\n"
    with (
        program(server, body_echo) as served,
        socket.create_connection(("127.0.0.1", server.port)) as one,
    ):
        one.sendall(ask.encode())
        assert one.recv(100).startswith(b"HTTP/1.1 100 ")
        one.sendall(b"hi")
        read_head(one)
        assert receive(one, 2) == b"hi"
        assert "expect" not in served.headers
    assert server.send_and_parse(ask.encode()).status == 502


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Content-Length: +3",
        "Transfer-Encoding:\x0bchunked",
        "X: a\nContent-Length: 3",
        "X: a\rb",
    ],
)
def test_smuggling(server: ServerUnderTest, place: str, head: str) -> None:
    """A request that two programs could read differently does not reach a program."""
    with program(server) as served:
        raw = f"POST {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\n0\r\n\r\n"
        raw += "GET /x HTTP/1.1\r\n\r\n"
        assert b" 400 " in server.send_raw(raw.encode()).partition(b"\r\n")[0]
        assert served.heads == []


# ---------------------------------------------------------------- answers


def test_response_headers(server: ServerUnderTest, place: str) -> None:
    """What a program answers comes through, but for what holds for the whole host."""
    lines = [
        b"X-Own: 1", b"x-own: 2", b"Content-Type: text/html", b"Server: mine",
        b"Connection: x-drop",
        b"X-Drop: 1", b"Keep-Alive: x", b"Strict-Transport-Security: max-age=1", b"Alt-Svc: h3",
        b'Clear-Site-Data: "*"', b"Service-Worker-Allowed: /", b"NEL: {}", b"Report-To: {}",
        b"Content-Security-Policy: default-src 'self'", b"X-Request-Id: theirs",
        b"X-Content-Type-Options: no", b"Content-Length: 0", b"X-Accel-Redirect: /internal",
        b"X-Sendfile: /etc/passwd",
    ]  # fmt: skip
    with program(server, b"HTTP/1.1 418 A Teapot\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"):
        got = server.http.get(f"{place}/", headers={"X-Request-Id": "mine"})
    assert (got.status_code, got.reason_phrase) == (418, "A Teapot")
    assert got.headers.get_list("X-Own") == ["1", "2"]
    assert got.headers.get_list("Server") == ["mine"]
    assert got.headers.get_list("Content-Type") == ["text/html"]
    assert got.headers.get_list("X-Request-Id") == ["mine"]
    assert got.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert got.headers.get_list("Content-Security-Policy") == ["default-src 'self'", POLICY]
    gone = {
        "x-drop", "keep-alive", "strict-transport-security", "alt-svc", "clear-site-data", "nel",
        "service-worker-allowed", "report-to", "connection", "cache-control",
        "x-accel-redirect", "x-sendfile",
        "access-control-allow-origin",
    }  # fmt: skip
    assert gone & set(got.headers) == set()


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, b"to the end"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, b""),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\nx", 999, b"x"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nx", 500, b"x"),
    ],
)  # fmt: skip
def test_framings(
    server: ServerUnderTest, place: str, answer: bytes, status: int, body: bytes
) -> None:
    """Whatever frames the answer, the body is the same, and the caller's connection goes on."""
    with program(server, answer), closing(httpx.Client(base_url=server.url)) as http:
        for _ in range(3):
            got = http.get(f"{place}/")
            assert (got.status_code, got.content) == (status, body)
        pool = http._transport._pool  # type: ignore[attr-defined]
        assert len(pool.connections) == 1 and pool.connections[0].is_idle()


def test_old_client(server: ServerUnderTest, place: str) -> None:
    """A client of HTTP/1.0 knows no chunks: the end of its answer is that of its connection."""
    with program(
        server, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ):
        for line in ("", "Connection: keep-alive\r\n"):
            raw = server.send_raw(f"GET {place}/ HTTP/1.0\r\n{line}\r\n".encode())
            assert raw.endswith(b"\r\n\r\nabc") and b"chunked" not in raw


def test_trailers(server: ServerUnderTest, place: str) -> None:
    """Headers behind the body come through, but for those that a client must know before it."""
    tail = b"0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\nLocation: /x\r\n\r\n"
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nab\r\n" + tail
    )
    with program(server, answer):
        request = f"GET {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        raw = server.send_raw(request * 2)
    assert raw.count(b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n") == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "BAD_GATEWAY"),
        (b"hello\r\n\r\n", "BAD_GATEWAY"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "BAD_GATEWAY"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "BAD_GATEWAY"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "BAD_GATEWAY"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "BAD_GATEWAY"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, "BAD_GATEWAY"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "BAD_GATEWAY"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "BAD_GATEWAY"),
    ],
)  # fmt: skip
def test_bad_answers(server: ServerUnderTest, place: str, answer: bytes, code: str) -> None:
    """What is no HTTP, or ends too early, is 502 in JSON."""
    with program(server, answer):
        for body in (None, b"x" * 1000):
            got = server.http.request("POST" if body else "GET", f"{place}/", content=body)
            assert (got.status_code, got.json()["code"]) == (502, code)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
     CHUNKED + b"9\r\nabc",
     CHUNKED + b"zz\r\nabc"],
)  # fmt: skip
def test_cut_answers(server: ServerUnderTest, place: str, answer: bytes) -> None:
    """An answer that ends in its middle does not look whole."""
    with program(server, answer), pytest.raises(httpx.RemoteProtocolError):
        server.http.get(f"{place}/")


def test_a_stream(server: ServerUnderTest, place: str) -> None:
    """Parts of an answer come as they are made; when the reader leaves, the program learns it."""

    def tick(one: socket.socket, head: bytes) -> None:
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            one.sendall(b"data: x\n\n")
            time.sleep(0.02)

    with program(server, tick) as served:
        with server.http.stream("GET", f"{place}/") as got:
            parts = got.iter_lines()
            assert [next(parts) for _ in range(4)] == ["data: x", ""] * 2
        assert wait_until(lambda: served.closed == 1)
    assert wait_until(lambda: not server.context.active_handlers)
    assert not server.context.proxy_turns.members


def test_an_early_answer(server: ServerUnderTest, place: str) -> None:
    """A program that answers without reading the body is heard: a small one is read to its end."""
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with program(server, refusal):
        for size in (10, 60_000):
            got = server.http.post(f"{place}/", content=b"x" * size)
            assert (got.status_code, got.content) == (413, b"no")
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            head = f"POST {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n"
            one.sendall(head.encode() + b"x" * 1000)
            one.settimeout(10)
            answer = one.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()


def test_an_answer_beside_the_body(server: ServerUnderTest, place: str) -> None:
    """Both directions go on at the same time where a program does so."""

    def echo(one: socket.socket, head: bytes) -> None:
        one.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while data := one.recv(100):
            one.sendall(data)

    with program(server, echo), socket.create_connection(("127.0.0.1", server.port)) as one:
        one.settimeout(10)
        head = f"POST {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        one.sendall(head.encode())
        for word in (b"one", b"two"):
            one.sendall(b"3\r\n%s\r\n" % word)
            got = b""
            while word not in got:
                got += one.recv(1000)


def test_timeout(server: ServerUnderTest, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not answer in time is 504, and its connection is closed."""
    monkeypatch.setattr(proxy, "ANSWER_TIMEOUT", 0.2)
    with program(server, lambda one, head: one.recv(1) and None) as served:
        got = server.http.get(f"{place}/")
        assert (got.status_code, got.json()["code"]) == (504, "GATEWAY_TIMEOUT")
        assert wait_until(lambda: served.closed == 1)


def test_a_client_that_stops_sending(
    server: ServerUnderTest, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that pauses for too long ends the connection, that of the program as well."""
    monkeypatch.setattr(proxy, "IDLE_TIMEOUT", 0.2)
    with program(server, body_echo) as served:
        head = f"POST {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nabc"
        assert server.send_raw(head.encode()) == b""
        assert wait_until(lambda: served.closed == 1)


@pytest.mark.parametrize(
    ("error", "status"),
    [(GatewayTimeout("Slow."), 504), (AtCapacity("Full."), 503), (NotEnforceable("No."), 409)],
)
def test_no_connection(
    server: ServerUnderTest, place: str, error: GatewayTimeout, status: int
) -> None:
    """Why there is no connection is told in JSON."""
    server.proxies.served[PORT] = error
    for body in (b"", b"x" * 200_000):
        assert server.http.post(f"{place}/", content=body).status_code == status
    del server.proxies.served[PORT]
    got = server.http.get(f"{place}/")
    assert (got.status_code, got.json()["code"]) == (502, "NOTHING_LISTENING")
    assert got.headers["Content-Security-Policy"] == POLICY
    assert server.http.get(f"/proxy/none/{PORT}/").json()["code"] == "SESSION_NOT_FOUND"


def test_memory_of_a_slow_reader(server: ServerUnderTest, place: str) -> None:
    """A program is not read from for a client that does not read."""
    sent = 0

    def flood(one: socket.socket, head: bytes) -> None:
        nonlocal sent
        one.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        one.setblocking(False)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 1:
            with suppress(BlockingIOError):
                sent += one.send(b"x" * 65536)
                quiet_since = time.monotonic()

    with (
        program(server, flood) as served,
        socket.create_connection(("127.0.0.1", server.port)) as one,
    ):
        one.sendall(f"GET {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert wait_until(lambda: served.closed == 1, 20)
    assert sent < 30_000_000


# ---------------------------------------------------------------- access


@pytest.fixture(scope="module")
def closed() -> Iterator[ServerUnderTest]:
    """A server with a token."""
    with run_server(Access(tokens=[TOKEN])) as one:
        for name, public in (("s1", True), ("s2", False)):
            body = {"language": LANGUAGE, "session_id": name, "allowPublicAccess": public}
            one.http.post("/api/sessions", json=body, headers={"X-API-Key": TOKEN})
        yield one


@pytest.mark.parametrize(
    ("sent", "gone"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, "authorization"),
        ({"authorization": f"bearer   {TOKEN}"}, "authorization"),
        ({"X-API-Key": TOKEN}, "x-api-key"),
    ],
)
def test_tokens_stay_here(closed: ServerUnderTest, sent: dict[str, str], gone: str) -> None:
    """A token of the API opens a session that is not public, and no program sees it."""
    with program(closed) as served:
        for name in ("s1", "s2"):
            assert closed.http.get(f"/proxy/{name}/{PORT}/", headers=sent).status_code == 200
            assert gone not in served.headers
            assert TOKEN.encode() not in served.heads[-1]


@pytest.mark.parametrize(("sent", "is_kept"), [({}, False), ({"X-API-Key": TOKEN}, True)])
def test_guests(closed: ServerUnderTest, sent: dict[str, str], is_kept: bool) -> None:
    """Whoever looks at what is public has a place among known callers for its request only."""
    seen = []

    def look(one: socket.socket, head: bytes) -> None:
        [handler] = closed.context.active_handlers
        stream = client_of(handler.request)
        seen.append((stream, is_trusted(stream)))
        one.sendall(OK)

    def is_trusted(stream: Client) -> bool:
        return bool(stream._is_trusted)  # type: ignore[attr-defined]

    with program(closed, look), httpx.Client(base_url=closed.url) as caller:
        assert caller.get(f"/proxy/s1/{PORT}/", headers=sent).status_code == 200
        stream, was_trusted = seen[0]
        assert was_trusted
        assert wait_until(lambda: is_trusted(stream) is is_kept)


def test_who_is_refused_holds_no_place(
    closed: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused request is none that is under way, though its body is still being read."""
    held = []

    @contextmanager
    def hold(session_id: str, close: object, *, has_token: bool) -> Iterator[None]:
        held.append(session_id)
        yield
        held.remove(session_id)

    calls = []
    dial = closed.proxies.dial

    async def note(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return await dial(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(closed.proxies, "hold", hold)
    monkeypatch.setattr(closed.proxies, "dial", note)
    with socket.create_connection(("127.0.0.1", closed.port)) as one:
        head = f"POST /proxy/s2/{PORT}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"
        one.sendall(head.encode())
        assert wait_until(lambda: bool(calls))
        assert wait_until(lambda: not held, 2)
        one.settimeout(0.1)
        with pytest.raises(TimeoutError):
            one.recv(1)  # the refusal waits for the body


def test_tokens_of_programs(closed: ServerUnderTest) -> None:
    """A program's own tokens come through, and open nothing here."""
    own = [("Authorization", "Bearer theirs"), ("X-API-Key", "theirs"), ("X-API-Key", TOKEN)]
    with program(closed) as served:
        assert closed.http.get(f"/proxy/s1/{PORT}/", headers=own).status_code == 200
        assert (served.headers["authorization"], served.headers["x-api-key"]) == (
            "Bearer theirs",
            "theirs",
        )
        for wrong in ({}, dict(own[:2])):
            got = closed.http.get(f"/proxy/s2/{PORT}/", headers=wrong)
            assert (got.status_code, got.json()["code"]) == (403, "FORBIDDEN")
        assert len(served.heads) == 1


def test_not_public_without_tokens(server: ServerUnderTest, place: str) -> None:
    """Where there are no tokens, nobody bears one."""
    server.http.patch("/api/sessions/s1", json={"allowPublicAccess": False})
    with program(server):
        assert server.http.get(f"{place}/").status_code == 403
        server.http.patch("/api/sessions/s1", json={"allowPublicAccess": True})
        assert server.http.get(f"{place}/").status_code == 200


def test_sandboxed_pages(server: ServerUnderTest, place: str) -> None:
    """A page that a session serves has the origin `null`: it reaches sessions, and no API."""
    null = {"Origin": "null"}
    ask = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-a, x-b"}
    answer = OK.replace(
        b"OK\r\n", b"OK\r\nAccess-Control-Allow-Origin: http://a\r\nVary: Accept\r\n"
    )
    with program(server, answer) as served:
        got = server.http.get(f"{place}/", headers=null)
        assert got.headers.get_list("Access-Control-Allow-Origin") == ["null"]
        assert got.headers.get_list("Vary") == ["Accept", "Origin"]
        assert "Access-Control-Allow-Credentials" not in got.headers
        got = server.http.options(f"{place}/", headers=null | ask)
        assert (got.status_code, len(served.heads)) == (204, 1)
        assert got.headers["Access-Control-Allow-Headers"] == "x-a, x-b"
        assert "PUT" in got.headers["Access-Control-Allow-Methods"]
        assert server.http.options(f"{place}/").status_code == 200  # it is the program's
        assert server.http.get(f"{place}/", headers={"Origin": "http://evil"}).status_code == 403
    assert server.http.get("/api/sessions", headers=null).status_code == 403
    got = server.http.get(f"{place}/", headers=null)
    assert (got.status_code, got.headers["Access-Control-Allow-Origin"]) == (502, "null")


def test_ttl(server: ServerUnderTest, place: str) -> None:
    """A request keeps the session from expiring, as long as it lasts; a refused one does not."""
    seen = []

    def look(one: socket.socket, head: bytes) -> None:
        seen.append(list(server.sessions.touched))
        one.sendall(OK)

    with program(server, look):
        assert server.http.get(f"{place}/").status_code == 200
    assert seen[0]


# ---------------------------------------------------------------- WebSockets


def upgrade(server: ServerUnderTest, place: str) -> socket.socket:
    """A connection that has asked for the other protocol, and said something in it already."""
    one = socket.create_connection(("127.0.0.1", server.port))
    one.settimeout(20)
    head = f"GET {place}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: WebSocket\r\n"
    head += "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n"
    one.sendall(head.encode() + b"early")
    return one


def receive(one: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        data = one.recv(65536)
        assert data, got[-100:]
        got += data
    return got


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: a\r\nAlt-Svc: h3\r\n\r\n"
)


def switch_and_echo(one: socket.socket, head: bytes) -> None:
    one.sendall(SWITCH + b"hello")
    while data := one.recv(65536):
        one.sendall(data)


def read_head(one: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += one.recv(1)
    return head


def test_websocket(server: ServerUnderTest, place: str) -> None:
    """After 101 every byte comes through in both directions, and what came early as well."""
    with program(server, switch_and_echo) as served, closing(upgrade(server, place)) as one:
        head = read_head(one).lower()
        assert b"upgrade: websocket\r\n" in head and b"sec-websocket-accept: a\r\n" in head
        assert b"alt-svc" not in head and head.count(b"upgrade: ") == 1
        assert receive(one, 10) == b"helloearly"
        seen = served.headers
        assert (seen["connection"], seen["upgrade"]) == ("Upgrade", "websocket")
        assert seen["sec-websocket-key"] == "k"
        data = bytes(range(256)) * 40_000
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        assert receive(one, len(data)) == data
        sender.join()
        assert server.sessions.active_touches["s1"] == 1
    assert wait_until(lambda: served.closed == 1)
    assert wait_until(lambda: not server.context.active_handlers)
    assert not server.context.proxy_turns.members
    assert server.sessions.active_touches["s1"] == 0


def test_a_websocket_with_half_a_body(server: ServerUnderTest, place: str) -> None:
    """A client that leaves before the end of its body leaves nothing that waits for the rest."""

    def relays() -> int:
        tasks = asyncio.all_tasks(server.loop)
        return sum("_relay_or_fail" in str(task.get_coro()) for task in tasks)

    with program(server, switch_and_echo) as served:
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            head = f"GET {place}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            one.sendall(f"{head}Connection: Upgrade\r\nContent-Length: 9\r\n\r\nhalf".encode())
            assert wait_until(lambda: bool(served.heads) and relays() == 1)
            time.sleep(0.2)  # the program has answered
        assert wait_until(lambda: relays() == 0)
        assert wait_until(lambda: served.closed == 1)


def test_the_last_word(server: ServerUnderTest, place: str) -> None:
    """What a program says before it leaves is read to its end, then the connection is closed."""

    def say(one: socket.socket, head: bytes) -> None:
        one.sendall(SWITCH + b"x" * 1_000_000)
        one.shutdown(socket.SHUT_WR)
        while one.recv(65536):
            pass

    with program(server, say), closing(upgrade(server, place)) as one:
        read_head(one)
        time.sleep(0.2)
        one.sendall(b"y" * 1000)  # which nobody reads any more
        assert receive(one, 1_000_000) == b"x" * 1_000_000
        assert one.recv(1) == b""


@pytest.mark.parametrize("direction", ["down", "up"])
def test_back_pressure(server: ServerUnderTest, place: str, direction: str) -> None:
    """Who does not read is not sent more than fits on the way."""
    stop = threading.Event()

    def deaf(one: socket.socket, head: bytes) -> None:
        one.sendall(SWITCH)
        if direction == "down":
            flood(one)
        else:
            stop.wait(20)

    sent = []

    def flood(one: socket.socket) -> None:
        one.settimeout(1)
        with suppress(TimeoutError):
            while True:
                sent.append(one.send(b"x" * 65536))

    with program(server, deaf), closing(upgrade(server, place)) as one:
        read_head(one)
        if direction == "up":
            flood(one)
        else:
            assert wait_until(lambda: bool(sent))
            time.sleep(2)
        stop.set()
    assert 0 < sum(sent) < 30_000_000


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("GET", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n"),
        ("GET", "Upgrade: websocket\r\n"),
        ("POST", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        ("GET", "Upgrade: tls/1.0, websocket\r\nConnection: Upgrade\r\n"),
    ],
)
def test_no_other_protocol(server: ServerUnderTest, place: str, method: str, lines: str) -> None:
    """Only a WebSocket is switched to; a program that switches all the same is not believed."""
    raw = f"{method} {place}/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()
    with program(server, SWITCH) as served:
        assert server.send_and_parse(raw).status == 502
        assert "upgrade" not in served.headers and served.headers["connection"] == "close"


def test_a_refused_websocket(server: ServerUnderTest, place: str) -> None:
    """A program may answer with HTTP, which goes on."""
    with program(server, OK), closing(upgrade(server, place)) as one:
        assert read_head(one).startswith(b"HTTP/1.1 200 OK\r\n")
        assert one.recv(2) == b"ok"
