"""What the way in opens to nobody: other ports, other sessions, the API, and others' places."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check_error, open_client
from tests.contract.test_links import make
from tests.contract.test_proxy import ECHO, PORT, serve
from tests.waiting import wait_until

STORAGE_PORT = 61787
CONNECTIONS = 40


@pytest.fixture(scope="module")
def served(client: Client) -> Iterator[SessionClient]:
    session = client.session("python")
    serve(session)
    yield session
    session.delete()


def test_the_storage_port(client: Client, session: SessionClient) -> None:
    """The server's port in the session is nobody's: else anybody would read its storage."""
    found = session.run("import os; print(os.environ['ERA_STORAGE_URL'])")["stdout"]
    if not found.startswith("http://"):
        pytest.skip("storage is served by a unix socket")
    port = urlsplit(found.strip()).port
    assert port == STORAGE_PORT
    for path in ("", "api/storage/kv/a"):
        answer = client.http.get(f"/proxy/{session.id}/{port}/{path}")
        check_error(answer, 502, "NOTHING_LISTENING")


def test_ports_of_the_host(client: Client, session: SessionClient) -> None:
    """Neither the server's own port nor another of its host is reached through a session."""
    session.run("pass")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        for port in (urlsplit(client.base_url).port, other.getsockname()[1]):
            answer = client.http.get(f"/proxy/{session.id}/{port}/api/sessions")
            assert answer.status_code in (409, 502), answer.text
            assert answer.json()["code"] in ("NOTHING_LISTENING", "NOT_ENFORCEABLE")


def test_ports_of_other_sessions(
    client: Client, session: SessionClient, served: SessionClient
) -> None:
    """A port of one session is none of another's, from outside and from inside."""
    session.run("pass")
    answer = client.http.get(f"/proxy/{session.id}/{PORT}/")
    assert answer.json()["code"] in ("NOTHING_LISTENING", "NOT_ENFORCEABLE")
    assert client.http.get(f"/proxy/{served.id}/{PORT}/").status_code == 200


@pytest.mark.parametrize(
    "tail",
    ["/../../../api/sessions", "/%2e%2e/%2e%2e/%2e%2e/api/sessions", "/..%2f..%2f..%2fapi/sessions",
     "/a//api/sessions", "/http://127.0.0.1/api/sessions", "/;/../../api/sessions"],
)  # fmt: skip
def test_paths_lead_nowhere_else(client: Client, served: SessionClient, tail: str) -> None:
    """Whatever the path holds, it is the program's."""
    port = urlsplit(client.base_url).port
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.settimeout(20)
        head = f"GET /proxy/{served.id}/{PORT}{tail} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        one.sendall(f"{head}Connection: close\r\n\r\n".encode())
        raw = b""
        while data := one.recv(65536):
            raw += data
    assert raw.endswith(f"GET {tail} 1".encode())


def test_a_page_and_the_api(client: Client, served: SessionClient) -> None:
    """A page of a session has the origin `null`, which no call of the API is answered to."""
    null = {"Origin": "null"}
    for method, path in (
        ("GET", "/api/sessions"), ("DELETE", "/api/sessions"), ("POST", "/api/execute"),
        ("GET", f"{served.path}/files"), ("GET", "/metrics"), ("GET", "/api/storage/kv/a"),
    ):  # fmt: skip
        check_error(client.http.request(method, path, headers=null), 403, "FORBIDDEN")
    ask = {"Access-Control-Request-Method": "POST"}
    answer = client.http.options("/api/sessions", headers=null | ask)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_foreign_pages(client: Client) -> None:
    """On a server without tokens, pages of other sites and other names of it use no link."""
    session = client.session("python", allowPublicAccess=False)
    client.http.put(f"{session.path}/files/f", content=b"x").raise_for_status()
    url = make(client, session, path="f")["url"]
    assert httpx.get(url).text == "x"
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        check_error(httpx.get(url, headers=headers), 403, "FORBIDDEN")
    assert httpx.get(url, headers={"Origin": "null"}).headers["Access-Control-Allow-Origin"]
    ask = {"Origin": "null", "Access-Control-Request-Method": "PUT"}
    assert httpx.options(url, headers=ask).headers["Access-Control-Allow-Origin"] == "null"
    for path in (f"{session.path}/links", "/api/sessions"):
        null = client.http.post(path, json={"path": "f"}, headers={"Origin": "null"})
        check_error(null, 403, "FORBIDDEN")
    session.delete()


# ---------------------------------------------------------------- floods


@pytest.fixture(scope="module")
def small() -> Iterator[Client]:
    """A client of a server with few connections."""
    with open_client("--max-connections", str(CONNECTIONS)) as client:
        yield client


def open_websocket(base_url: str, session: str) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", urlsplit(base_url).port or 80))
    one.settimeout(20)
    one.sendall(
        f"GET /proxy/{session}/{PORT}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return one


def test_a_flood_of_websockets(small: Client) -> None:
    """One session has a quarter of the connections at most; others and the API go on."""
    with ExitStack() as stack:
        first, second = small.session("python"), small.session("python")
        for session in (first, second):
            assert session.run(ECHO)["exit_code"] == 0
        statuses = []
        for _ in range(CONNECTIONS // 4 + 5):
            one = stack.enter_context(open_websocket(small.base_url, first.id))
            statuses.append(one.recv(12))
        assert statuses.count(b"HTTP/1.1 101") == CONNECTIONS // 4
        assert statuses.count(b"HTTP/1.1 503") == 5
        with open_websocket(small.base_url, second.id) as one:
            assert one.recv(12) == b"HTTP/1.1 101"
        assert small.http.get("/api/sessions").status_code == 200
        assert second.run("1 + 1")["exit_code"] == 0
    with httpx.Client(base_url=small.base_url) as http:
        none = f"/proxy/{first.id}/{PORT}/none"
        assert wait_until(lambda: http.get(none).status_code == 404)  # their ends are seen soon
