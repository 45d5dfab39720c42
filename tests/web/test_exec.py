"""Programs beside the kernel: what reaches the service, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from era_kernels.models import ExecSubmission
from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest


@pytest.fixture(autouse=True)
def session(server: ServerUnderTest) -> Iterator[str]:
    """A session of its own, and no memory of other tests."""
    server.http.post("/api/sessions", json={"language": LANGUAGE, "session_id": "exec"})
    yield "exec"
    server.http.delete("/api/sessions/exec")
    server.sessions.runs.clear()
    server.sessions.calls.clear()


def execute(server: ServerUnderTest, **body: Any) -> httpx.Response:
    return server.http.post("/api/sessions/exec/exec", json=body)


def submitted(server: ServerUnderTest, **body: Any) -> ExecSubmission:
    """What the service is asked."""
    assert execute(server, **body).status_code == 200
    submission = server.sessions.calls[-1][2]
    assert isinstance(submission, ExecSubmission)
    return submission


def test_command(server: ServerUnderTest) -> None:
    """It goes through the shell and is listed as it was given."""
    submission = submitted(server, command="out a  b")
    assert submission.argv == ("/bin/sh", "-c", "out a  b")
    assert submission.code == "out a  b"
    assert (submission.stdin, submission.timeout, submission.env) == (None, None, {})
    assert submission.base_url == server.url


def test_argv(server: ServerUnderTest) -> None:
    """It stays what it is and is listed as a shell would take it."""
    submission = submitted(server, argv=["a b", "$c", ""])
    assert submission.argv == ("a b", "$c", "")
    assert submission.code == "'a b' '$c' ''"


def test_other_fields(server: ServerUnderTest) -> None:
    """Timeouts, variables and the text to read arrive as for a run."""
    submission = submitted(server, command="", timeout_ms=1500, env={"A": 1.5}, stdin="x\0")
    assert (submission.timeout, submission.env, submission.stdin) == (1.5, {"A": "1.5"}, "x\0")
    assert submitted(server, command="", timeout=2, stdin="").stdin == ""


def test_answer(server: ServerUnderTest) -> None:
    """It has no results, says where all of a cut output is, and names its execution."""
    answer = execute(server, command="out a\nshow b\ntruncate")
    reported = answer.json()
    assert answer.headers["X-Execution-Id"] == reported["execution_id"]
    assert "results" not in reported
    place = f"/api/sessions/exec/executions/{reported['execution_id']}"
    assert reported["full_output"] == {"stdout": f"{place}/stdout", "stderr": f"{place}/stderr"}


def test_timeout(server: ServerUnderTest) -> None:
    """It is 408, with the error beside the rest."""
    answer = execute(server, command="out a\ntimeout")
    assert answer.status_code == 408
    reported = answer.json()
    assert reported["code"] == "EXECUTION_TIMEOUT"
    assert (reported["stdout"], reported["exit_code"]) == ("a\n", 124)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "Exactly one of `command` and `argv` is required."),
        ({"command": "a", "argv": ["a"]}, "Exactly one of `command` and `argv` is required."),
        ({"command": None, "argv": None}, "Exactly one of `command` and `argv` is required."),
        ({"argv": []}, "`argv` must not be empty."),
        ({"argv": ["a", 1]}, "`argv.1` must be a string."),
        ({"argv": ["a", "b\0"]}, "`argv.1` must not hold a NUL character."),
        ({"command": "\0"}, "`command` must not hold a NUL character."),
        ({"command": "a", "stdin": ["a"]}, "`stdin` must be a string."),
    ],
)
def test_mistakes(server: ServerUnderTest, body: dict[str, Any], expected: str) -> None:
    """A mistake is reported by its field, and the service is not called."""
    asked = len(server.sessions.calls)
    answer = execute(server, **body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert answer.json()["message"] == expected
    assert len(server.sessions.calls) == asked
