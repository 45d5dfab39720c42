"""The stream: frames to the byte, comments, readers that come again, leave or are slow."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from era_kernels.models import Display, LoggedEvent, Stdout, event_to_json
from era_kernels.web import sse
from tests.client import SseEvent, parse_sse
from tests.waiting import wait_until
from tests.web.fakes import CREATED_AT, LANGUAGE
from tests.web.serving import ServerUnderTest, parse_response, read_all, run_server


def stream(server: ServerUnderTest, session: str, code: str, **body: Any) -> list[SseEvent]:
    """Every frame of a run."""
    request = {"code": code, **body}
    with server.http.stream("POST", f"{session}/stream", json=request) as answer:
        assert answer.status_code == 200, answer.read()
        return list(parse_sse(answer.iter_lines()))


def replay(server: ServerUnderTest, path: str, **headers: str) -> list[SseEvent]:
    """Every frame of an execution that was there before."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.http.stream("GET", path, headers=names) as answer:
        assert answer.status_code == 200, answer.read()
        return list(parse_sse(answer.iter_lines()))


def open_stream(server: ServerUnderTest, session: str, code: str) -> socket.socket:
    """A connection on which a run was asked for."""
    body = json.dumps({"code": code}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"POST {session}/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    sock.sendall(head.encode() + b"\r\n\r\n" + body)
    return sock


# ---------------------------------------------------------------- frames


def test_frame() -> None:
    """A frame is three fields with one space each, and a blank line."""
    assert sse.encode_frame(7, {"type": "stdout", "content": "a\nb é"}) == (
        'id: 7\nevent: stdout\ndata: {"type":"stdout","content":"a\\nb é"}\n\n'.encode()
    )


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c",
                                 "\x1c", "\x1d", "\x1e"])  # fmt: skip
def test_line_ends(end: str) -> None:
    """Nothing in a text can end the data line, whatever a reader takes for the end of a line."""
    text = f"a{end}data: b{end}{end}é"
    lines = sse.encode_frame(1, {"type": "stdout", "content": text}).decode().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[2].removeprefix("data: "))["content"] == text


async def test_a_long_event_is_one_frame_too() -> None:
    """In pieces comes the same, to the byte, in its place between short ones."""
    text = "a\u2028\x85\n\ud83d" * 200_000
    long = Display({"text/plain": text, "x": [[1.5, None]] * 3000}, {}, "d")
    events = [Stdout("a"), long, Stdout("b")]
    batch = [LoggedEvent(n, CREATED_AT, event) for n, event in enumerate(events, 1)]

    found = [piece async for piece in sse.encode_batch(batch)]
    whole = [sse.encode_frame(item.seq, event_to_json(item.event)) for item in batch]
    assert b"".join(found) == b"".join(whole)
    assert max(map(len, found)) < 500_000


def test_stream(server: ServerUnderTest, session: str) -> None:
    """The events of a run come in order; `done` is the last, and has no data."""
    events = stream(server, session, "out a\nerr b\nshow c")
    assert [(e.id, e.event) for e in events] == [
        (1, "stdout"), (2, "stderr"), (3, "display"), (4, "done"),
    ]  # fmt: skip
    assert events[0].data == {"type": "stdout", "content": "a\n"}
    assert events[2].data == {"type": "display", "data": {"text/plain": "c"}, "metadata": {}}
    assert events[3].data == {
        "type": "done",
        "exit_code": 0,
        "duration": "15.3ms",
        "execution_time_ms": 15.3,
        "files_modified": 0,
        "session_id": "s1",
        "execution_id": "exec-1",
        "state": "preserved",
        "started_from": "fresh",
        "kernel_generation": 1,
        "queued_ms": 0.1,
        "start_ms": 0.2,
        "exception": None,
    }


def test_http_1_0(server: ServerUnderTest, session: str) -> None:
    """A client of HTTP/1.0 reads the stream until the connection ends."""
    body = b'{"code":"out a"}'
    head = f"POST {session}/stream HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = parse_response(server.send_raw(head.encode() + body))
    assert reply.status == 200
    assert [frame.event for frame in parse_sse(iter(reply.body.decode().splitlines()))] == [
        "stdout",
        "done",
    ]


def test_mended_json(server: ServerUnderTest, session: str) -> None:
    """What programs make of JSON is mended, so that readers can parse it."""
    shown, _ = stream(server, session, "nan")
    assert shown.data["data"] == {"application/json": {"x": None, "y": "�"}}


@pytest.mark.parametrize("code", ["refuse", "sleep 0.3\nrefuse", "out a\nsleep 0.1\nrefuse"])
def test_what_fails_later(server: ServerUnderTest, session: str, code: str) -> None:
    """Once there is the execution, what fails is an `error` frame, and `done` still comes."""
    *_, failure, done = stream(server, session, code)
    assert (failure.event, failure.data["code"]) == ("error", "KERNEL_START_FAILED")
    assert done.event == "done"


def test_bad_requests(server: ServerUnderTest, session: str) -> None:
    """A stream that cannot begin is an error like any other."""
    for path, body, status in [
        (session, b"{", 400),
        (session, b"{}", 400),
        ("/api/sessions/gone", b'{"code":""}', 404),
    ]:
        answer = server.http.post(f"{path}/stream", content=body)
        assert (answer.status_code, "code" in answer.json()) == (status, True)


def test_bug_in_the_middle(
    server: ServerUnderTest, session: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug while frames are sent is logged, and reported without its text."""
    stream(server, session, "break")
    with caplog.at_level(logging.ERROR):
        *_, failure = replay(server, f"{session}/executions/exec-1/stream")
    assert (failure.event, failure.data["code"]) == ("error", "INTERNAL_ERROR")
    assert "nobody must see" not in str(failure.data)
    assert [r.name for r in caplog.records if r.exc_info] == ["era_kernels.web.base_handler"]


# ---------------------------------------------------------------- again


def test_header_wins(server: ServerUnderTest, session: str) -> None:
    """A reader that connects again adds the header to its first URL."""
    stream(server, session, "out a\nout b")
    path = f"{session}/executions/exec-1/stream?last_event_id=0"
    assert [frame.id for frame in replay(server, path, Last_Event_ID="2")] == [3]
    assert [frame.id for frame in replay(server, path, Last_Event_ID="")] == [1, 2, 3]


@pytest.mark.parametrize("after", ["2", "3", "99"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_beyond_the_end(server: ServerUnderTest, session: str, after: str, method: str) -> None:
    """After the last event there is nothing: 204, upon which an EventSource stops."""
    stream(server, session, "out a")
    path = f"{session}/executions/exec-1/stream"
    answer = server.http.request(method, path, headers={"Last-Event-ID": after})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "٣", "9" * 16, "1 2"])
def test_bad_last_event_id(server: ServerUnderTest, session: str, bad: str) -> None:
    """A Last-Event-ID that is no number is refused."""
    stream(server, session, "out a")
    path = f"{session}/executions/exec-1/stream"
    answer = server.http.get(path, headers={"Last-Event-ID": bad.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert "`Last-Event-ID`" in answer.json()["message"]


def test_head_of_a_stream(server: ServerUnderTest, session: str) -> None:
    """HEAD shows whether there is such an execution, and follows nothing."""
    stream(server, session, "out a")
    assert server.http.head(f"{session}/executions/exec-1/stream").status_code == 200
    assert server.http.head(f"{session}/executions/nothing/stream").status_code == 404


# ---------------------------------------------------------------- patience


@pytest.fixture
def frequent_keepalive() -> Iterator[ServerUnderTest]:
    """A server whose comments come often."""
    with run_server(keepalive_interval=0.2) as server:
        server.http.post("/api/sessions", json={"language": LANGUAGE, "id": "s1"})
        yield server


def test_comments(frequent_keepalive: ServerUnderTest) -> None:
    """While nothing happens comment lines keep the connection, between frames only."""
    with open_stream(
        frequent_keepalive, "/api/sessions/s1", "sleep 1\nout a\nsleep 1\nout b"
    ) as sock:
        text = parse_response(read_all(sock)).body.decode()
    before, between = text.partition("event: stdout")[::2]
    assert before.count(": still here\n\n") >= 2
    assert between.count(": still here\n\n") >= 2
    assert text.count("event: ") == 3


def test_headers_come_before_the_first_event(server: ServerUnderTest, session: str) -> None:
    """The head of the answer goes out as soon as there is the execution, also to later readers."""
    with open_stream(server, session, "sleep 60") as sock:
        sock.settimeout(5)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        path = f"{session}/executions/exec-1/stream"
        for after in (0, 99):
            headers = {"Last-Event-ID": str(after)}
            with server.http.stream("GET", path, headers=headers, timeout=5) as reader:
                assert reader.status_code == 200


def test_client_that_vanishes(server: ServerUnderTest, session: str) -> None:
    """A reader that vanishes is forgotten; the run goes on and can be read again."""
    with open_stream(server, session, "out a\nsleep 1\nout b") as sock:
        assert b"HTTP/1.1 200" in sock.recv(1000)
        running = server.sessions.runs["exec-1"]
        assert wait_until(lambda: running.readers == 1)
    assert wait_until(lambda: running.readers == 0)
    assert not running.is_abandoned
    whole = replay(server, f"{session}/executions/exec-1/stream")
    assert [frame.event for frame in whole] == ["stdout", "stdout", "done"]


def test_client_that_vanishes_while_nothing_comes(server: ServerUnderTest, session: str) -> None:
    """A reader that leaves while the run is silent is forgotten at once."""
    with open_stream(server, session, "sleep 60"):
        assert wait_until(lambda: bool(server.sessions.runs))
        running = server.sessions.runs["exec-1"]
        assert wait_until(lambda: running.readers == 1)
    assert wait_until(lambda: running.readers == 0)


def test_reader_of_a_replay_that_vanishes(server: ServerUnderTest, session: str) -> None:
    """A reader of a stored execution that leaves ends the reading of its file."""
    server.http.post(f"{session}/run", json={"code": "endless"})
    path = f"{session}/executions/exec-1/stream"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    assert wait_until(lambda: server.executions.is_closed)


def test_slow_reader(server: ServerUnderTest, session: str) -> None:
    """A slow reader holds nothing up: others are served, and it gets every byte."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", server.port))
        body = b'{"code":"many 3000"}'
        head = f"POST {session}/stream HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        running = None
        assert wait_until(lambda: bool(server.sessions.runs))
        running = server.sessions.runs["exec-1"]
        time.sleep(0.5)
        assert server.http.get("/health").status_code == 200
        assert wait_until(running.finished.is_set)
        text = parse_response(read_all(sock, 5)).body.decode()
    shown = list(parse_sse(iter(text.splitlines())))
    assert [frame.id for frame in shown] == list(range(1, 3002))
    assert all(f.data["content"].startswith(f"{n:07d}.") for n, f in enumerate(shown[:-1]))
