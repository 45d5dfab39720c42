"""Requests that touch a session: which count for the time to live of a session, and how long."""

from __future__ import annotations

import socket

import pytest

from era_kernels.web.access import Access
from tests.waiting import wait_until
from tests.web.serving import ServerUnderTest, run_server

NAME = "v1"
PATH = f"/api/sessions/{NAME}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("HEAD", PATH),
        ("PATCH", PATH),
        ("POST", f"{PATH}/run"),
        ("POST", f"{PATH}/restart"),
        ("POST", f"{PATH}/duplicate"),
        ("GET", f"{PATH}/code"),
        ("PUT", f"{PATH}/code"),
        ("GET", f"{PATH}/files"),
        ("GET", f"{PATH}/files/a%2Fb"),
        ("PUT", f"{PATH}/files/a"),
        ("GET", f"{PATH}/executions"),
        ("GET", f"{PATH}/executions/none"),
        ("GET", f"{PATH}/executions/none/stream"),
        ("GET", f"{PATH}/executions/none/stdout"),
    ],
)
def test_what_counts(server: ServerUnderTest, method: str, path: str) -> None:
    """Every request to a session counts once, whatever comes of it, and is over afterwards."""
    server.sessions.touched.clear()
    server.http.request(method, path)
    assert server.sessions.touched == [NAME]
    assert wait_until(lambda: server.sessions.active_touches[NAME] == 0)


@pytest.mark.parametrize("path", ["/api/sessions", "/health", "/api/limits", f"{PATH}/none"])
def test_what_does_not_count(server: ServerUnderTest, path: str) -> None:
    """What is about no session, or no path at all, does not."""
    server.sessions.touched.clear()
    server.http.get(path)
    assert server.sessions.touched == []


def test_who_is_refused_does_not_count() -> None:
    """Who may not ask, or asks wrongly, keeps no session alive."""
    with run_server(Access(tokens=("t" * 16,))) as server:
        assert server.http.get(PATH).status_code == 401
        headers = {"Authorization": "Bearer " + "t" * 16}
        assert server.http.delete(f"{PATH}/run", headers=headers).status_code == 405
        assert server.sessions.touched == []
        server.http.get(PATH, headers=headers)
        assert server.sessions.touched == [NAME]


def test_a_reader_counts_until_it_leaves(server: ServerUnderTest, session: str) -> None:
    """A stream counts as long as somebody reads it, and not any longer."""
    name = session.rpartition("/")[2]
    body = b'{"code":"out a\\nsleep 1"}'
    head = f"POST {session}/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        sock.recv(65536)
        assert server.sessions.active_touches[name] == 1
    assert wait_until(lambda: server.sessions.active_touches[name] == 0, 0.8)


def test_an_upload_that_breaks_off(server: ServerUnderTest, session: str) -> None:
    """A body that never ends counts until its client leaves."""
    name = session.rpartition("/")[2]
    head = f"PUT {session}/files/a HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
        assert wait_until(lambda: server.sessions.active_touches[name] == 1)
    assert wait_until(lambda: server.sessions.active_touches[name] == 0)
