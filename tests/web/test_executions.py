"""Runs and what became of them: run, list, show, wait, and the text as a file."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import httpx
import pytest

from era_kernels.models import Submission
from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest, eventually

FULL = "0123456789\n"


def run(server: ServerUnderTest, session: str, code: str, **body: Any) -> httpx.Response:
    return server.http.post(f"{session}/run", json={"code": code, **body})


@pytest.fixture
def text(server: ServerUnderTest, session: str) -> str:
    """The path of an execution that wrote `FULL` and an é."""
    answer = run(server, session, "out 0123456789\nerr é")
    return f"{session}/executions/{answer.json()['execution_id']}"


# ---------------------------------------------------------------- run


def test_run(server: ServerUnderTest, session: str) -> None:
    """The run answer holds everything a run produced."""
    answer = run(server, session, "out a\nerr b\nout c\nshow rich")
    assert answer.status_code == 200
    assert answer.json() == {
        "execution_id": "exec-1",
        "session_id": "s1",
        "stdout": "a\nc\n",
        "stderr": "b\n",
        "exit_code": 0,
        "execution_time_ms": 15.3,
        "duration": "15.3ms",
        "files_modified": 0,
        "files_changed": {"created": [], "changed": [], "deleted": []},
        "data": {"secret": "only in the log"},
        "results": [{"type": "display_data", "data": {"text/plain": "rich"}, "metadata": {}}],
        "exception": None,
        "state": "preserved",
        "started_from": "fresh",
        "kernel_generation": 1,
        "queued_ms": 0.1,
        "start_ms": 0.2,
    }
    assert answer.headers["X-Execution-Id"] == "exec-1"


def test_submission(server: ServerUnderTest, session: str) -> None:
    """Everything of the body reaches the service, in the units of the domain."""
    run(server, session, "out x", timeout=2, env={"A": 1}, update_data={"k": [1]}, unknown=1)
    expected = Submission("out x", 2, {"A": "1"}, {"k": [1]}, server.url)
    assert server.sessions.calls[-1] == ("submit", "s1", expected)


def test_nothing_but_code(server: ServerUnderTest, session: str) -> None:
    """What is absent or null is left to the service."""
    nothing = dict.fromkeys(("timeout", "timeout_ms", "env", "update_data"))
    for body in ({}, nothing):
        run(server, session, "", **body)
        expected = Submission("", None, {}, None, server.url)
        assert server.sessions.calls[-1] == ("submit", "s1", expected)


def test_exception(server: ServerUnderTest, session: str) -> None:
    """An uncaught error is reported in its parts."""
    shown = run(server, session, "fail ValueError").json()
    assert shown["exit_code"] == 1
    assert shown["exception"] == {"name": "ValueError", "value": "boom", "traceback": ["line 1"]}
    assert "cause" not in shown


def test_death(server: ServerUnderTest, session: str) -> None:
    """A kernel that died gives a cause and the state `lost`, at status 200."""
    answer = run(server, session, "out a\ndie 11")
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["exit_code"], shown["cause"], shown["state"]) == (139, "signal 11", "lost")
    assert "error" not in shown


def test_timeout(server: ServerUnderTest, session: str) -> None:
    """A timeout is 408: the error beside the whole run answer."""
    answer = run(server, session, "out a\ntimeout")
    assert answer.status_code == 408
    shown = answer.json()
    assert (shown["code"], shown["exit_code"], shown["stdout"]) == ("EXECUTION_TIMEOUT", 124, "a\n")
    assert answer.headers["X-Execution-Id"] == shown["execution_id"]


def test_truncated(server: ServerUnderTest, session: str) -> None:
    """What was cut says where the whole is."""
    shown = run(server, session, "truncate").json()
    place = f"{session}/executions/{shown['execution_id']}"
    assert shown["truncated"] is True
    assert shown["full_output"] == {"stdout": f"{place}/stdout", "stderr": f"{place}/stderr"}


def test_big_answer(server: ServerUnderTest, session: str) -> None:
    """An answer of megabytes is encoded in a thread and comes whole."""
    assert run(server, session, "big 3000000").json()["stdout"] == "x" * 3_000_000


def test_what_programs_make_of_json(server: ServerUnderTest, session: str) -> None:
    """A rich output that is no JSON is mended: the answer can be parsed."""
    [shown] = run(server, session, "nan").json()["results"]
    assert shown["data"] == {"application/json": {"x": None, "y": "�"}}


def test_no_session(server: ServerUnderTest) -> None:
    """A run in a session that is not there is 404, and starts nothing."""
    answer = run(server, "/api/sessions/gone", "out x")
    assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")
    assert "X-Execution-Id" not in answer.headers


def test_no_code(server: ServerUnderTest, session: str) -> None:
    """The answer to a run without code says what is missing."""
    for body in (b"", b"{}", b'{"code":null}'):
        answer = server.http.post(f"{session}/run", content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
        assert "`code`" in answer.json()["message"]


def test_runner_that_leaves(server: ServerUnderTest, session: str) -> None:
    """A run belongs to the server: it goes on when its client leaves."""
    body = b'{"code":"sleep 0.5\\nout end"}'
    head = f"POST {session}/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode() + body)
        assert eventually(lambda: bool(server.sessions.runs))
    running = server.sessions.runs["exec-1"]
    assert eventually(running.finished.is_set)
    assert not running.is_abandoned
    assert server.http.get(f"{session}/executions/exec-1").json()["stdout"] == "end\n"


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
        assert eventually(lambda: [one.callers for one in server.sessions.runs.values()] == [1])
    [running] = server.sessions.runs.values()
    assert eventually(lambda: running.callers == 0)
    assert running.is_abandoned is abandoned


def test_background(server: ServerUnderTest, session: str) -> None:
    """It is answered when it has its place; nobody waits for it."""
    answer = run(server, session, "sleep 60", background=True)
    assert (answer.status_code, answer.json()) == (
        202, {"execution_id": "exec-1", "session_id": "s1"},
    )  # fmt: skip
    [running] = server.sessions.runs.values()
    assert running.submission.background
    assert running.callers == 0


def test_key(server: ServerUnderTest, session: str) -> None:
    """The same key and body are one execution, the same key with another body a conflict."""
    headers = {"Idempotency-Key": "k"}
    answers = [
        server.http.post(f"{session}/run", json={"code": code}, headers=headers)
        for code in ("out a", "out a", "out b")
    ]
    assert [one.status_code for one in answers] == [200, 200, 409]
    assert answers[0].content == answers[1].content
    assert answers[2].json()["code"] == "IDEMPOTENCY_CONFLICT"
    [running] = server.sessions.runs.values()
    assert running.submission.code == "out a"


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


# ---------------------------------------------------------------- list


def test_list(server: ServerUnderTest, session: str) -> None:
    """Executions are listed oldest first, and how many there are."""
    for code in ("out 1", "fail E", "out 3"):
        run(server, session, code)
    answer = server.http.get(f"{session}/executions").json()
    assert (answer["count"], answer["total"]) == (3, 3)
    first, second, _ = answer["executions"]
    assert first | {"finished_at": ""} == {
        "execution_id": "exec-1",
        "status": "finished",
        "code": "out 1",
        "code_truncated": False,
        "created_at": "2025-01-15T10:30:00.000Z",
        "started_at": "",
        "finished_at": "",
        "exit_code": 0,
        "cause": None,
    }
    assert first["finished_at"].endswith("Z")
    assert second["exit_code"] == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=1", ["exec-1"]),
        ("offset=2", ["exec-3"]),
        ("limit=1&offset=1", ["exec-2"]),
        ("limit=0", []),
        ("offset=9", []),
    ],
)
def test_paging(server: ServerUnderTest, session: str, query: str, expected: list[str]) -> None:
    """A part of the list is counted as listed, beside the total."""
    for _ in range(3):
        run(server, session, "")
    answer = server.http.get(f"{session}/executions?{query}").json()
    assert [one["execution_id"] for one in answer["executions"]] == expected
    assert (answer["count"], answer["total"]) == (len(expected), 3)


# ---------------------------------------------------------------- show


def test_show_finished(server: ServerUnderTest, session: str) -> None:
    """A finished execution is its run answer, its status and its code."""
    answer = run(server, session, "out a").json()
    assert server.http.get(f"{session}/executions/exec-1").json() == {
        **answer,
        "status": "finished",
        "code": "out a",
    }


def test_show_running(server: ServerUnderTest, session: str) -> None:
    """Of a running one there is what it wrote; fields known only at the end are null."""
    with server.http.stream("POST", f"{session}/stream", json={"code": "out a\nsleep 60"}) as live:
        next(live.iter_lines())
        shown = server.http.get(f"{session}/executions/exec-1").json()
    assert (shown["status"], shown["stdout"]) == ("queued", "a\n")
    for name in ("exit_code", "execution_time_ms", "duration", "data", "state", "start_ms"):
        assert shown[name] is None


def test_wait(server: ServerUnderTest, session: str) -> None:
    """With `wait` the answer comes at the end, or after that time."""
    with server.http.stream("POST", f"{session}/stream", json={"code": "out a\nsleep 1"}) as live:
        next(live.iter_lines())
        path = f"{session}/executions/exec-1"
        assert server.http.get(f"{path}?wait=0.1").json()["exit_code"] is None
        assert server.http.get(f"{path}?wait=20").json()["exit_code"] == 0


def test_waiter_that_leaves(server: ServerUnderTest, session: str) -> None:
    """A client that does not wait to the end costs nothing more, and ends nothing."""
    thread = threading.Thread(target=run, args=(server, session, "sleep 1\nout a"))
    thread.start()
    assert eventually(lambda: bool(server.sessions.runs))
    head = f"GET {session}/executions/exec-1?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode())
        time.sleep(0.1)
    thread.join()
    shown = server.http.get(f"{session}/executions/exec-1").json()
    assert (shown["exit_code"], shown["stdout"]) == (0, "a\n")


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf"])
def test_bad_wait(server: ServerUnderTest, session: str, wait: str) -> None:
    """An invalid wait is reported by its name."""
    answer = server.http.get(f"{session}/executions/exec-1?wait={wait}")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert "`wait`" in answer.json()["message"]


@pytest.mark.parametrize("part", ["", "/stream", "/stdout", "/stderr"])
def test_not_there(server: ServerUnderTest, session: str, part: str) -> None:
    """Neither an unknown execution nor one of another session is found."""
    run(server, session, "out hush")
    server.http.post("/api/sessions", json={"language": LANGUAGE, "id": "other"})
    for place, code in [
        (f"{session}/executions/nothing", "EXECUTION_NOT_FOUND"),
        ("/api/sessions/other/executions/exec-1", "EXECUTION_NOT_FOUND"),
        ("/api/sessions/gone/executions/exec-1", "SESSION_NOT_FOUND"),
    ]:
        answer = server.http.get(place + part)
        assert (answer.status_code, answer.json()["code"]) == (404, code)


# ---------------------------------------------------------------- text


def test_text(server: ServerUnderTest, text: str) -> None:
    """What was written to each stream is plain text in UTF-8."""
    for name, expected in (("stdout", FULL), ("stderr", "é\n")):
        answer = server.http.get(f"{text}/{name}")
        assert answer.content == expected.encode()
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Length"] == str(len(answer.content))


@pytest.mark.parametrize(
    ("asked", "content", "content_range"),
    [
        ("bytes=0-3", "0123", "bytes 0-3/11"),
        ("bytes=8-", "89\n", "bytes 8-10/11"),
        ("bytes=-1", "\n", "bytes 10-10/11"),
        ("bytes=0-999", FULL, "bytes 0-10/11"),
    ],
)
def test_range(
    server: ServerUnderTest, text: str, asked: str, content: str, content_range: str
) -> None:
    """A part of the text is 206 and says where it stands; HEAD describes the whole."""
    answer = server.http.get(f"{text}/stdout", headers={"Range": asked})
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, content_range)
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.text == content
    head = server.http.head(f"{text}/stdout", headers={"Range": asked})
    assert (head.status_code, head.headers["Content-Length"], head.text) == (200, "11", "")


@pytest.mark.parametrize("headers", [{"Range": "lines=1-2"}, {"Range": "bytes=5-1"},
                                     {"Range": "bytes=0-1", "If-Range": '"tag"'}])  # fmt: skip
def test_range_that_does_not_apply(
    server: ServerUnderTest, text: str, headers: dict[str, str]
) -> None:
    """A range that is none, or holds for another text, asks for the whole."""
    answer = server.http.get(f"{text}/stdout", headers=headers)
    assert (answer.status_code, answer.text) == (200, FULL)
    assert "Content-Range" not in answer.headers


def test_range_behind_the_end(server: ServerUnderTest, text: str) -> None:
    """A range behind the end is 416 in JSON, and says how much there is."""
    answer = server.http.get(f"{text}/stdout", headers={"Range": "bytes=11-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["Content-Range"] == "bytes */11"


def test_empty_text(server: ServerUnderTest, session: str) -> None:
    """No output is an empty text, not an error."""
    run(server, session, "")
    answer = server.http.get(f"{session}/executions/exec-1/stdout")
    assert (answer.status_code, answer.content) == (200, b"")


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
