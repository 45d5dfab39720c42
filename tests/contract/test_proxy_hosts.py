"""Each port of a session on a host of its own, where only the session answers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.client import Client, SessionClient
from tests.contract.checks import check_error
from tests.contract.test_proxy import ECHO, PORT, serve
from tests.server_process import Server

DOMAIN = "apps.example.org"

# A server with a domain for ports.
SERVER_FLAGS = ("--proxy-domain", DOMAIN.upper())


@pytest.fixture(scope="module")
def served(client: Client) -> Iterator[SessionClient]:
    session = client.session("python", session_id="web-1")
    serve(session)
    yield session
    session.delete()


def get(client: Client, host: str, path: str = "/", **headers: str) -> httpx.Response:
    """Asks for a path on a host, whose name nobody need know."""
    return client.http.get(path, headers={"Host": host, **headers})


@pytest.mark.parametrize("session_id", ["web-1", "Web_1.x", "w" * 51])
def test_host(client: Client, server: Server, session_id: str) -> None:
    """The address of a port is its own host; an id that names no host has a digest there."""
    session = client.session("python", session_id=session_id)
    try:
        answer = client.http.get(f"{session.path}/host?port={PORT}").json()
        label = session_id
        if session_id != "web-1":
            digest = hashlib.sha256(session_id.encode()).digest()
            label = base64.b32encode(digest).decode().lower()[:26]
        server_port = urlsplit(server.base_url).port
        assert answer["url"] == f"http://{PORT}-{label}.{DOMAIN}:{server_port}"
        assert answer["base_url"] == f"{server.base_url}/proxy/{session_id}/{PORT}"
        serve(session)
        assert get(client, urlsplit(answer["url"]).netloc, "/a?b").text == "GET /a?b 1"
    finally:
        session.delete()


def test_only_the_session_answers(client: Client, served: SessionClient) -> None:
    """Paths of the API are the program's there, whatever the name's spelling."""
    host = f"{PORT}-web-1.{DOMAIN}"
    paths = ("/", "/api/sessions", "/health", "/proxy/web-1/8080/", "/docs", "/metrics")
    for name in (host, host.upper(), f"{host}.", f"{host}:8787"):
        for path in paths:
            assert get(client, name, path).text == f"GET {path} 1"
    assert client.http.get("/api/sessions").json()["total"] == 1


def test_no_policy(client: Client, served: SessionClient) -> None:
    """A page has an origin of its own: no sandbox; redirects and cookies are as they were."""
    host = f"{PORT}-web-1.{DOMAIN}"
    page = get(client, host)
    assert "Content-Security-Policy" not in page.headers
    away = get(client, host, "/go")
    assert (away.headers["Location"], away.headers["Set-Cookie"]) == ("/there?x=1", "a=b; Path=/")
    assert get(client, host, Origin=f"http://{host}").status_code == 200


def test_other_hosts(client: Client, served: SessionClient) -> None:
    """A host that names another port or session reaches nothing of this one; others are refused."""
    for name in (f"9-web-1.{DOMAIN}", f"9-{'a' * 26}.{DOMAIN}", f"{PORT}-none.{DOMAIN}"):
        assert get(client, name).json()["code"] in ("NOTHING_LISTENING", "SESSION_NOT_FOUND")
    check_error(get(client, f"65536-web-1.{DOMAIN}"), 400, "INVALID_PATH")
    for name in (
        DOMAIN, f"web-1.{DOMAIN}", f"0-web-1.{DOMAIN}", f"x.{PORT}-web-1.{DOMAIN}",
        f"{PORT}-web-1.{DOMAIN}.evil", f"{PORT}-web-1x{DOMAIN}", "evil.example",
    ):  # fmt: skip
        check_error(get(client, name, "/api/sessions"), 403, "FORBIDDEN")
    host = f"{PORT}-web-1.{DOMAIN}"
    check_error(get(client, host, Origin="http://evil.example"), 403, "FORBIDDEN")
    other = f"http://9-web-1.{DOMAIN}"
    check_error(get(client, host, Origin=other), 403, "FORBIDDEN")
    own = client.http.get("/api/sessions", headers={"Origin": f"http://{host}"})
    check_error(own, 403, "FORBIDDEN")


async def test_websocket(client: Client) -> None:
    """WebSockets are served there, too."""
    session = client.session("python", session_id="ws")
    assert session.run(ECHO)["exit_code"] == 0
    url = f"{client.base_url.replace('http', 'ws', 1)}/ws"
    request = HTTPRequest(url, headers={"Host": f"{PORT}-ws.{DOMAIN}"})
    connection = await websocket_connect(request)
    await connection.write_message("hello")
    assert await connection.read_message() == "hello"
    connection.close()
    assert await connection.read_message() is None
    session.delete()
