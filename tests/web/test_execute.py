"""One-shot runs: what reaches the service, what comes back, and clients that leave."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from era_kernels.models import Submission
from tests.web.fakes import LANGUAGE, FakeLiveExecution
from tests.web.serving import ServerUnderTest, eventually


@pytest.fixture(autouse=True)
def clean(server: ServerUnderTest) -> Iterator[None]:
    """Each test sees its own runs only."""
    yield
    server.sessions.runs.clear()
    server.sessions.calls.clear()


def execute(server: ServerUnderTest, code: str, **body: Any) -> httpx.Response:
    return server.http.post("/api/execute", json={"language": LANGUAGE, "code": code, **body})


def test_answer(server: ServerUnderTest) -> None:
    """The answer holds what was printed, and one id under two names."""
    answer = execute(server, "out hello\nerr oops\nshow rich")
    assert answer.status_code == 200
    assert answer.json() == {
        "session_id": "sess-throwaway",
        "vm_id": "sess-throwaway",
        "language": LANGUAGE,
        "stdout": "hello\n",
        "stderr": "oops\n",
        "exit_code": 0,
        "execution_time_ms": 15.3,
        "duration": "15.3ms",
        "results": [{"type": "display_data", "data": {"text/plain": "rich"}, "metadata": {}}],
    }


@pytest.mark.parametrize("language", [LANGUAGE, "LINGO", "li", "Li"])
def test_language_by_its_name(server: ServerUnderTest, language: str) -> None:
    """The answer has the language's name, also for an alias."""
    assert execute(server, "", language=language).json()["language"] == LANGUAGE


def test_files(server: ServerUnderTest) -> None:
    """Files reach the service by their paths, none is the same as none given."""
    for files, expected in (({"d/é": "text"}, {"d/é": "text"}), ({}, {}), (None, {})):
        assert execute(server, "", files=files).status_code == 200
        assert server.sessions.calls[-1][2].files == expected
    assert execute(server, "", files={"a": 1}).json()["code"] == "INVALID_REQUEST"


def test_submission(server: ServerUnderTest) -> None:
    """Timeout, environment and the server's address reach the service."""
    execute(server, "out x", timeout_ms=1500, env={"A": "b"})
    assert server.sessions.calls == [
        ("execute", LANGUAGE, Submission("out x", 1.5, {"A": "b"}, None, server.url))
    ]


def test_empty_code(server: ServerUnderTest) -> None:
    """An empty program is a program."""
    assert execute(server, "").json()["exit_code"] == 0


def test_failing_program(server: ServerUnderTest) -> None:
    """A program that fails is no failure of the request."""
    answer = execute(server, "fail ValueError")
    assert (answer.status_code, answer.json()["exit_code"]) == (200, 1)


def test_death(server: ServerUnderTest) -> None:
    """A program that dies is reported with its cause."""
    answer = execute(server, "out before\ndie 9")
    assert answer.status_code == 200
    assert (answer.json()["exit_code"], answer.json()["cause"]) == (137, "signal 9")
    assert answer.json()["stdout"] == "before\n"


def test_timeout(server: ServerUnderTest) -> None:
    """A timeout is 408 with the error and everything that there is."""
    answer = execute(server, "out partial\ntimeout")
    shown = answer.json()
    assert answer.status_code == 408
    assert (shown["code"], shown["exit_code"]) == ("EXECUTION_TIMEOUT", 124)
    assert shown["stdout"] == "partial\n"
    assert {"error", "message"} <= set(shown)


def test_truncated(server: ServerUnderTest) -> None:
    """Truncated output is reported; nothing of a throw-away session can be asked for later."""
    shown = execute(server, "truncate").json()
    assert shown["truncated"] is True
    assert "full_output" not in shown


def test_kernel_that_does_not_start(server: ServerUnderTest) -> None:
    """A kernel that does not come up is 503 with a time to come again."""
    answer = execute(server, "refuse")
    assert (answer.status_code, answer.json()["code"]) == (503, "KERNEL_START_FAILED")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"code": "x"}, "language"),
        ({"language": LANGUAGE}, "code"),
        ({"language": LANGUAGE, "code": None}, "code"),
        ({"language": LANGUAGE, "code": 1}, "code"),
        ({"language": [], "code": ""}, "language"),
        ({"language": LANGUAGE, "code": "", "timeout": "1"}, "timeout"),
        ({"language": LANGUAGE, "code": "", "timeout_ms": -1}, "timeout_ms"),
        ({"language": LANGUAGE, "code": "", "env": {"A": None}}, "env"),
    ],
)
def test_bad_body(server: ServerUnderTest, body: dict[str, Any], field: str) -> None:
    """A wrong body is reported by its field and runs nothing."""
    answer = server.http.post("/api/execute", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert f"`{field}`" in answer.json()["message"]
    assert server.sessions.calls == []


def test_big_env_with_numbers(server: ServerUnderTest) -> None:
    """Numbers of a big body's environment are what was written."""
    code = "#" * 2_000_000
    body = f'{{"language":"{LANGUAGE}","code":"{code}","env":{{"A":1.50,"B":true}}}}'
    assert server.http.post("/api/execute", content=body).status_code == 200
    assert server.sessions.calls[0][2].env == {"A": "1.50", "B": "true"}


def test_client_that_leaves(server: ServerUnderTest) -> None:
    """Nobody else can read a one-shot run: it is ended when its client leaves."""
    body = b'{"language":"lingo","code":"sleep 60"}'
    head = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head % len(body) + body)
        assert eventually(lambda: bool(server.sessions.runs))
        [running] = server.sessions.runs.values()
        assert not running.is_abandoned
    assert eventually(lambda: ended(running))


def ended(running: FakeLiveExecution) -> bool:
    return running.is_abandoned
