"""The edge under attack: ambiguous framing, odd targets, floods, clients that hang."""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check_error, check_error_object, send_and_parse, send_raw
from tests.server_process import Launcher, Server
from tests.waiting import wait_until
from tests.web.serving import parse_response, read_all

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: %s\r\n\r\n"
WEBSOCKET = b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
def port(server: Server) -> int:
    return port_of(server)


@pytest.fixture(autouse=True)
def lives_on(client: Client, server: Server) -> Iterator[None]:
    """Whatever a test sends, the server answers afterwards, and has met no bug."""
    yield
    assert client.http.get("/health").status_code == 200
    assert "Traceback" not in server.log_text


def port_of(server: Server) -> int:
    return int(server.base_url.rpartition(":")[2])


def statuses(raw: bytes) -> list[bytes]:
    """The status of every answer in what a connection said."""
    return re.findall(rb"HTTP/1\.1 (\d+) ", raw)


@contextmanager
def connected(port: int, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that have sent this, and nothing more."""
    with ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            sock.sendall(data)
            socks.append(sock)
        yield socks


# ---------------------------------------------------------------- framing


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\nHost: localhost\n\n",
        GET + b"X-A: a\nX-B: b\r\n\r\n",
        POST + b"X-A: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
        GET + b"X-A: a\r\r\n\r\n",
        b"\r\n\r\n" + GET + b"\r\n",
        b"POST /api/execute HTTP/1.0\r\nConnection: keep-alive\r\n" + CHUNKED
        + b"\r\n2\r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER,
        POST + b"Transfer-Encoding: identity\r\n\r\n" + INNER,
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + INNER,
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + INNER,
        POST + b"Transfer-Encoding: \r\nContent-Length: 2\r\n\r\n{}" + INNER,
        POST + b"Content-Length: \r\n\r\n" + INNER,
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + INNER,
        POST + b"Content-Length : 2\r\n\r\n{}" + INNER,
        POST + b"Content-Length: \xb2\r\n\r\n{}" + INNER,
        POST + CHUNKED + b"\r\n2;a=b\r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n2;a\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n2 \r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n2\n{}\n0\n\n" + INNER,
        POST + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n" + b"f" * 60 + b"\r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n" + b"0" * 70 + b"2\r\n{}\r\n0\r\n\r\n" + INNER,
        POST + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nX-Trailer: a\r\n\r\n" + INNER,
        GET + b"X\x00A: a\r\n\r\n",
        GET + b"a: b\r\n" * 128 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health http/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost, localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: loc<>alhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n X-A: folded\r\nHost: localhost\r\n\r\n",
        b"GET /hea\x00lth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /hea\x7flth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health?" + b"&".join([b"a=1"] * 5000) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"HELLO\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        *[GET + line + b"\r\n\r\n" for line in (
            b"X-A: a\x00b", b"X-A: a\x01b", b"X-A: a\x0bb", b"X-A: a\x7fb", b"X-A: a\rX-B: b",
            b"X A: a", b"X-A : a", b"X-A", b": a", b"No colon", b" folded: x",
            b"Host: evil.example", b"X-A: " + b"a" * 70_000)],
        *[POST + fields + b"\r\n\r\n0\r\n\r\n" + INNER for fields in (
            CHUNKED + b"Content-Length: 4", b"Content-Length: 4\r\n" + CHUNKED[:-2],
            b"Transfer-Encoding: xchunked", b"Transfer-Encoding: gzip",
            b"Transfer-Encoding : chunked")],
        *[POST + b"Content-Length: " + length + b"\r\n\r\n{}" + INNER for length in (
            b"0\r\nContent-Length: 50", b"+2", b"-1", b"0x2", b"2 2", b"2x", b"2, 3", b"9" * 5000)],
        *[POST + CHUNKED + b"\r\n" + body + INNER for body in (
            b"+2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}extra\r\n0\r\n\r\n",
            b"zz\r\n", b"1" * 200)],
    ],
    ids=range(73),
)  # fmt: skip
def test_ambiguous(port: int, data: bytes) -> None:
    """What two programs could read in two ways is refused once, and the connection is closed."""
    answer = send_and_parse(port, data)
    assert answer.status == 400
    check_error_object(answer.json(), "INVALID_REQUEST")
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"].startswith("req-")
    assert answer.headers["server"] == "era-kernels"
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_most_header_fields(port: int) -> None:
    """As many header fields as any client needs are taken."""
    assert send_and_parse(port, GET + b"a: b\r\n" * 127 + b"\r\n").status == 200


@pytest.mark.parametrize("start", [b"POST /nothing", b"PUT /health"])
def test_answered_before_a_broken_body(port: int, start: bytes) -> None:
    """Who is refused by the head gets no second answer when the body is broken as well."""
    head = start + b" HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    answer = send_and_parse(port, head + CHUNKED + b"\r\nzz\r\n" + INNER)
    assert answer.status in (404, 405)
    assert answer.headers["connection"] == "close"


def test_bodies_where_none_belongs(port: int) -> None:
    """A body that nobody reads is not taken for the next request."""
    body = b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"POST"):
        head = method + b" /health HTTP/1.1\r\nHost: localhost\r\n"
        raw = send_raw(port, head + body + GET + b"Connection: close\r\n\r\n")
        assert len(statuses(raw)) == 2, (method, raw)
        assert b"404" not in statuses(raw)


def test_pipelining(port: int) -> None:
    """Requests that were sent at once are answered one after the other, in order."""
    paths = [b"/health", b"/nothing", b"/api/sessions"] * 20
    requests = [b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths]
    raw = send_raw(port, b"".join(requests))
    assert statuses(raw) == [b"200", b"404", b"200"] * 20


def test_old_http(port: int) -> None:
    """HTTP/1.0 closes after its answer unless it asks to go on."""
    assert statuses(send_raw(port, b"GET /health HTTP/1.0\r\n\r\n" * 2)) == [b"200"]
    kept = b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert statuses(send_raw(port, kept * 2)) == [b"200", b"200"]


@pytest.mark.parametrize("kind", [WEBSOCKET, b"h2c"], ids=["websocket", "h2c"])
def test_upgrade(port: int, kind: bytes) -> None:
    """Who asks for another protocol gets an answer in this one, and goes on with it."""
    raw = send_raw(port, GET + UPGRADE % kind + GET + b"Connection: close\r\n\r\n")
    assert statuses(raw) == [b"200", b"200"]


def test_expect_on_a_request_without_body(port: int) -> None:
    """A client that waits for leave to send nothing gets it, and its answer."""
    raw = send_raw(port, GET + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
    assert statuses(raw) == [b"100", b"200"]


# ---------------------------------------------------------------- targets and methods


@pytest.mark.parametrize(
    "target",
    ["http://localhost/health", "http://evil.example/health", "//evil.example/health",
     "\\\\evil", "/health#part", "/hé", "/%c0%ae%c0%ae/etc/passwd", "/%00", "/..%2f..%2fetc/passwd",
     "/%2e%2e/%2e%2e/etc/passwd", "/docs/..%2f..%2fsettings.py", "/docs/%2e%2e",
     "/" + "a/" * 5000],
)  # fmt: skip
def test_odd_targets(port: int, target: str) -> None:
    """A target that is no path of ours leads nowhere, however it is written."""
    head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = send_and_parse(port, head.encode())
    assert answer.status in (400, 404)
    check_error_object(answer.json(), answer.json()["code"])


@pytest.mark.parametrize("start", ["TRACE /health", "CONNECT localhost:80", "CONNECT /api/sessions",
                                   "OPTIONS *", "BREW /health", "get /health"])  # fmt: skip
def test_odd_methods(port: int, start: str) -> None:
    """Methods that nobody needs are refused in JSON, and nothing of the request is repeated."""
    secret = b"X-Secret: not to be repeated\r\n"
    head = f"{start} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    raw = send_raw(port, head + secret + b"\r\n")
    assert parse_response(raw).status in (404, 405)
    check_error_object(parse_response(raw).json(), parse_response(raw).json()["code"])
    assert b"repeated" not in raw


def test_head_everywhere(client: Client, shared: SessionClient) -> None:
    """HEAD is GET without the body wherever there is a GET, also of what would not end."""
    body = {"code": "import time; time.sleep(60)", "on_disconnect": "interrupt"}
    with shared.http.stream("POST", f"{shared.path}/stream", json=body) as stream:
        known = {"{id}": shared.id, "{execution_id}": stream.headers["X-Execution-Id"]}
        known |= dict.fromkeys(("{path}", "{namespace}", "{key}", "{secret}"), "nothing")
        known |= {"{port}": "9", "{link_id}": "nothing"}
        for path, item in client.http.get("/openapi.json").json()["paths"].items():
            for word, value in known.items():
                path = path.replace(word, value)
            answer = client.http.head(path, params={"port": 8000}, timeout=10)
            assert answer.content == b"", path
            assert answer.status_code == (405 if "get" not in item else answer.status_code), path
            # Nothing listens on the port: 502, or 409 where sessions have no network of their own.
            assert answer.status_code in (200, 404, 405, 409, 502), path


@pytest.mark.parametrize(
    "asked",
    ["bytes=" + ",".join(["0-"] * 1000), "bytes=0-0,-1", f"bytes={'9' * 4000}-", "lines=1-2"],
    ids=range(4),
)
def test_range_bombs(client: Client, shared: SessionClient, asked: str) -> None:
    """Many ranges, or none that makes sense, are answered with the whole, once."""
    run = shared.run("print('x' * 1000)")
    path = f"{shared.path}/executions/{run['execution_id']}/stdout"
    answer = client.http.get(path, headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, 1001)


# ---------------------------------------------------------------- bodies


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return gzip.compress(b"0" * 50_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "gzip, gzip", "x-unknown"])
def test_compressed_body(client: Client, shared: SessionClient, bomb: bytes, encoding: str) -> None:
    """A compressed JSON body is refused in JSON and never unpacked."""
    headers = {"Content-Encoding": encoding}
    for path in ("/api/execute", "/api/sessions", f"{shared.path}/run", f"{shared.path}/stream"):
        answer = client.http.post(path, content=bomb, headers=headers)
        check_error(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_identity(client: Client, shared: SessionClient) -> None:
    """A body that says that it is not compressed is read."""
    answer = client.http.post(
        f"{shared.path}/run", content=b'{"code":"1"}', headers={"Content-Encoding": "identity"}
    )
    assert answer.status_code == 200


def test_repeated_length_of_an_upload(port: int, shared: SessionClient) -> None:
    """A length that a proxy repeated is one length, also where a body is a file."""
    head = f"PUT {shared.path}/files/twice HTTP/1.1\r\nHost: localhost\r\n".encode()
    assert send_and_parse(port, head + b"Content-Length: 2, 2\r\n\r\nab").status == 200


# ---------------------------------------------------------------- floods and hung clients

HANGING = [
    b"",
    b"GET /hea",
    GET,
    POST + b"Content-Length: 10\r\n\r\n{",
    POST + CHUNKED + b"\r\n5\r\nab",
]


def test_slow_clients_hold_nobody_up(port: int, client: Client) -> None:
    """Two hundred connections that never finish a request do not stop a normal client."""
    with ExitStack() as stack:
        for data in HANGING:
            stack.enter_context(connected(port, 40, data))
        began = time.monotonic()
        with Client(client.base_url).http as other:
            for _ in range(20):
                assert other.get("/health").status_code == 200
            body = {"language": "python", "code": "print(1)"}
            assert other.post("/api/execute", json=body).json()["stdout"] == "1\n"
        assert time.monotonic() - began < 10


def test_connection_cap(launcher: Launcher) -> None:
    """Connections beyond `max_connections` are rejected in JSON until one is free again."""
    server = launcher.start("--max-connections", "20")
    port = port_of(server)
    with connected(port, 20, GET + b"\r\n") as known:
        for sock in known:  # who has been answered keeps the place
            assert sock.recv(4)
        for data in (GET + b"\r\n", b"", POST + b"Content-Length: 3\r\n\r\nabc"):
            answer = send_and_parse(port, data)
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert int(answer.headers["retry-after"]) > 0
            check_error_object(answer.json(), "CAPACITY")
        with connected(port, 100, GET + b"\r\n") as flood:
            for sock in flood[70:]:  # beyond MAX_LINGERING, closed without an answer
                read_all(sock, 5)

    def served() -> bool:
        try:
            return httpx.get(f"{server.base_url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    assert wait_until(served)
    assert "Traceback" not in server.log_text


def test_answer_that_nobody_reads(port: int, shared: SessionClient) -> None:
    """A client that reads nothing of a big answer costs the others nothing."""
    run = shared.run("print('x' * 20_000_000)")
    path = f"{shared.path}/executions/{run['execution_id']}/stdout"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connected(port, 20, head):
        began = time.monotonic()
        assert shared.run("print(2)")["stdout"] == "2\n"
        assert time.monotonic() - began < 5


def test_hung_clients_do_not_hold_up_the_end(launcher: Launcher) -> None:
    """A server stops on SIGTERM, whatever its clients do."""
    server = launcher.start("--shutdown-grace", "1")
    client = Client(server.base_url)
    session = client.session("python")
    run = session.run("print('x' * 20_000_000)")
    path = f"{session.path}/executions/{run['execution_id']}/stdout"
    unread = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    upload = f"PUT {session.path}/files/a HTTP/1.1\r\nHost: localhost\r\n".encode()
    client.close()
    with ExitStack() as stack:
        for data in (*HANGING, unread, upload + b"Content-Length: 10\r\n\r\nabc"):
            stack.enter_context(connected(port_of(server), 5, data))
        time.sleep(0.5)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
    assert "Traceback" not in server.log_text
