"""Runs and what became of them: run, list, show, wait, and the text as a file."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import httpx
import pytest

from tests.waiting import wait_until
from tests.web.serving import ServerUnderTest

FULL = "0123456789\n"


def run(server: ServerUnderTest, session: str, code: str, **body: Any) -> httpx.Response:
    return server.http.post(f"{session}/run", json={"code": code, **body})


@pytest.fixture
def text(server: ServerUnderTest, session: str) -> str:
    """The path of an execution that wrote `FULL` and an é."""
    answer = run(server, session, "out 0123456789\nerr é")
    return f"{session}/executions/{answer.json()['execution_id']}"


# ---------------------------------------------------------------- run


def test_big_answer(server: ServerUnderTest, session: str) -> None:
    """An answer of megabytes is encoded in a thread and comes whole."""
    assert run(server, session, "big 3000000").json()["stdout"] == "x" * 3_000_000


def test_what_programs_make_of_json(server: ServerUnderTest, session: str) -> None:
    """A rich output that is no JSON is mended: the answer can be parsed."""
    [shown] = run(server, session, "nan").json()["results"]
    assert shown["data"] == {"application/json": {"x": None, "y": "�"}}


@pytest.mark.parametrize("call", ["run", "stream"])
@pytest.mark.parametrize(("on_disconnect", "abandoned"), [("interrupt", True), ("continue", False)])
def test_abandoned(
    server: ServerUnderTest, session: str, call: str, on_disconnect: str, abandoned: bool
) -> None:
    """The service learns when the last caller leaves, and decides what that means."""
    body = b'{"code": "out a\\nsleep 60", "on_disconnect": "%b"}' % on_disconnect.encode()
    head = b"POST %b/%b HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head % (session.encode(), call.encode(), server.port, len(body)) + body)
        assert wait_until(lambda: [one.callers for one in server.sessions.runs.values()] == [1])
    [running] = server.sessions.runs.values()
    assert wait_until(lambda: running.callers == 0)
    assert running.is_abandoned is abandoned


def test_interrupt(server: ServerUnderTest, session: str) -> None:
    """Steps are reported in milliseconds."""
    run(server, session, "sleep 60", background=True)
    answer = server.http.post(f"{session}/executions/exec-1/interrupt")
    assert answer.json() == {
        "success": True,
        "execution_id": "exec-1",
        "state": "preserved",
        "steps": [{"action": "interrupt", "ms": 0.0}, {"action": "ended", "ms": 12.346}],
    }


# ---------------------------------------------------------------- show


def test_show_running(server: ServerUnderTest, session: str) -> None:
    """Of a running one there is what it wrote; fields known only at the end are null."""
    with server.http.stream("POST", f"{session}/stream", json={"code": "out a\nsleep 60"}) as live:
        next(live.iter_lines())
        shown = server.http.get(f"{session}/executions/exec-1").json()
    assert (shown["status"], shown["stdout"]) == ("queued", "a\n")
    for name in ("exit_code", "execution_time_ms", "duration", "data", "state", "start_ms"):
        assert shown[name] is None


def test_waiter_that_leaves(server: ServerUnderTest, session: str) -> None:
    """A client that does not wait to the end costs nothing more, and ends nothing."""
    thread = threading.Thread(target=run, args=(server, session, "sleep 1\nout a"))
    thread.start()
    assert wait_until(lambda: bool(server.sessions.runs))
    head = f"GET {session}/executions/exec-1?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode())
        time.sleep(0.1)
    thread.join()
    shown = server.http.get(f"{session}/executions/exec-1").json()
    assert (shown["exit_code"], shown["stdout"]) == (0, "a\n")


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("headers", [{"Range": "lines=1-2"}, {"Range": "bytes=5-1"},
                                     {"Range": "bytes=0-1", "If-Range": '"tag"'}])  # fmt: skip
def test_range_that_does_not_apply(
    server: ServerUnderTest, text: str, headers: dict[str, str]
) -> None:
    """A range that is none, or holds for another text, asks for the whole."""
    answer = server.http.get(f"{text}/stdout", headers=headers)
    assert (answer.status_code, answer.text) == (200, FULL)
    assert "Content-Range" not in answer.headers


def test_big_text_to_a_reader_that_leaves(server: ServerUnderTest, session: str) -> None:
    """A reader that leaves in the middle of a big text costs nobody else anything."""
    run(server, session, "big 20000000")
    head = f"GET {session}/executions/exec-1/stdout HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head.encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
    answer = server.http.get(f"{session}/executions/exec-1/stdout")
    assert len(answer.content) == 20_000_000
