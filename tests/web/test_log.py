"""The log over HTTP: a list, or events that are followed."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from era_kernels.models import Output, Stderr, Stdout
from tests.client import SseEvent, parse_sse
from tests.contract.checks import TIME
from tests.waiting import wait_until
from tests.web.serving import ServerUnderTest, run_server

EVENTS = {"Accept": "text/event-stream"}
LINE_ENDS = "a\r\nb\u2028c\u2029d\x85e"


@pytest.fixture
def log(server: ServerUnderTest, session: str) -> Iterator[str]:
    """The path of a log with two entries; empty again afterwards."""
    path = server.logs._store._sessions / "d"
    path.mkdir(exist_ok=True)
    server.logs._live.clear()
    write_output(server, Stdout(LINE_ENDS), Stderr("err"))
    assert wait_until(lambda: len(entries(server.http.get(f"{session}/log"))) == 2)
    yield f"{session}/log"
    for file in (path / "log").iterdir():
        file.unlink()


def write_output(server: ServerUnderTest, *outputs: Output) -> None:
    server.loop.call_soon_threadsafe(lambda: server.logs.live_log("d").write(outputs))


def entries(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, str]] = answer.json()["entries"]
    return found


@contextmanager
def following(server: ServerUnderTest, path: str, **headers: str) -> Iterator[Iterator[SseEvent]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.http.stream("GET", path, headers={**EVENTS, **named}) as answer:
        assert answer.status_code == 200, answer.read()
        yield parse_sse(answer.iter_lines())


def test_list(server: ServerUnderTest, log: str) -> None:
    """Entries with time, stream and content, and whether there were older ones."""
    answer = server.http.get(log)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert set(answer.json()) == {"entries", "truncated"}
    assert answer.json()["truncated"] is False
    found = entries(answer)
    assert [(one["stream"], one["content"]) for one in found] == [
        ("stdout", LINE_ENDS),
        ("stderr", "err"),
    ]
    assert all(set(one) == {"time", "stream", "content"} for one in found)
    assert all(TIME.fullmatch(one["time"]) for one in found)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html"])
def test_who_gets_the_list(server: ServerUnderTest, log: str, accept: str) -> None:
    """All who do not ask for events."""
    answer = server.http.get(log, headers={"Accept": accept})
    assert len(entries(answer)) == 2
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", ["text/event-stream", "Text/Event-Stream;q=1, */*"])
def test_follow(server: ServerUnderTest, log: str, accept: str) -> None:
    """Frames as those of a run, with the entry's time: what is kept, then what comes."""
    listed = entries(server.http.get(log))
    with following(server, log, Accept=accept) as events:
        first, second = next(events), next(events)
        assert (first.id, first.event, second.id, second.event) == (1, "stdout", 2, "stderr")
        assert first.data == {
            "type": "stdout",
            "time": listed[0]["time"],
            "content": LINE_ENDS,
        }
        write_output(server, Stdout("live"))
        third = next(events)
        assert (third.id, third.data["content"]) == (3, "live")
        server.loop.call_soon_threadsafe(server.logs.close, "d")
        assert list(events) == []


def test_resume(server: ServerUnderTest, log: str) -> None:
    """The header or the query gives the last entry that a reader has."""
    with following(server, log, Last_Event_ID="1") as events:
        assert next(events).id == 2
    with following(server, f"{log}?last_event_id=1") as events:
        assert next(events).id == 2
    assert [one["content"] for one in entries(server.http.get(f"{log}?last_event_id=1"))] == ["err"]
    answer = server.http.get(log, headers={"Last-Event-ID": "x"})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


def test_silent_log(server: ServerUnderTest, session: str) -> None:
    """An empty log: an empty list, and a stream that begins at once."""
    answer = server.http.get(f"{session}/log")
    assert answer.json() == {"entries": [], "truncated": False}
    request = f"GET {session}/log HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.9) as sock:
        sock.sendall(request.encode())
        head = sock.recv(4000).decode().lower()
    assert head.startswith("http/1.1 200")
    assert "content-type: text/event-stream; charset=utf-8" in head
    assert "cache-control: no-cache" in head


def test_comments() -> None:
    """While nothing is printed, comments keep the connection."""
    with run_server(keepalive_interval=0.1) as server:
        server.http.post("/api/sessions", json={"language": "lingo", "session_id": "s1"})
        with server.http.stream("GET", "/api/sessions/s1/log", headers=EVENTS) as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)] == [": still here", "", ": still here", ""]


def test_head(server: ServerUnderTest, log: str) -> None:
    """HEAD waits for nothing."""
    for headers in ({}, EVENTS):
        answer = server.http.head(log, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")


def test_unknown_session(server: ServerUnderTest) -> None:
    """404, also for who would follow."""
    for headers in ({}, EVENTS):
        answer = server.http.get("/api/sessions/none/log", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")


def test_follower_that_leaves(server: ServerUnderTest, log: str) -> None:
    """Nothing is kept for a client that left."""
    with following(server, log) as events:
        next(events)
    assert wait_until(lambda: gc.collect() >= 0 and not server.logs._live)


def test_document(server: ServerUnderTest) -> None:
    """The document names both forms."""
    operation = server.http.get("/openapi.json").json()["paths"]["/api/sessions/{id}/log"]["get"]
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert "Last-Event-ID" in operation["description"]
