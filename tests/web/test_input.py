"""Lines for programs that wait: which are taken, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from era_kernels.errors import InvalidRequest, TooLarge
from era_kernels.web.input import MAX_LINE_LENGTH, parse_line
from tests.web.serving import ServerUnderTest


@contextmanager
def asking(server: ServerUnderTest, session: str) -> Iterator[str]:
    """A program that waits; the path where it takes its line."""
    with server.http.stream("POST", f"{session}/stream", json={"code": "ask ?"}) as live:
        lines = live.iter_lines()
        assert next(line for line in lines if line.startswith("event")) == "event: input_request"
        assert next(lines) == 'data: {"type":"input_request","prompt":"?","password":false}'
        yield f"{session}/executions/{live.headers['X-Execution-Id']}/input"


def test_line_is_handed_on(server: ServerUnderTest, session: str) -> None:
    """The program gets the line; then it waits no more."""
    with asking(server, session) as place:
        answer = server.http.post(place, json={"value": "Ada\n"})
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        (running,) = server.sessions.runs.values()
        assert running.lines == ["Ada"]
        again = server.http.post(place, json={"value": "Bob"})
    assert (again.status_code, again.json()["code"]) == (409, "NO_INPUT_PENDING")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "`value` is required."),
        ({"value": 5}, "`value` must be a string."),
        ({"value": None}, "`value` must be a string."),
        ({"value": "s3cret\nb"}, "`value` must be one line."),
        ({"value": ["s3cret"]}, "`value` must be a string."),
    ],
)
def test_what_is_no_line(
    server: ServerUnderTest, session: str, body: dict[str, object], expected: str
) -> None:
    """What is no line is refused without repeating it; the question stays open."""
    with asking(server, session) as place:
        answer = server.http.post(place, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
        assert answer.json()["message"] == expected
        assert "s3cret" not in answer.text
        assert server.http.post(place, json={"value": ""}).status_code == 200


def test_nobody_waits(server: ServerUnderTest, session: str) -> None:
    """An execution that has ended waits for nothing; one that is not there is not found."""
    made = server.http.post(f"{session}/run", json={"code": "out a"}).headers["X-Execution-Id"]
    place = f"{session}/executions/{{}}/input"
    ended = server.http.post(place.format(made), json={"value": "a"})
    assert (ended.status_code, ended.json()["code"]) == (409, "NO_INPUT_PENDING")
    absent = server.http.post(place.format("exec-9"), json={"value": "a"})
    assert (absent.status_code, absent.json()["code"]) == (404, "EXECUTION_NOT_FOUND")
    nowhere = server.http.post("/api/sessions/s9/executions/exec-1/input", json={"value": "a"})
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "SESSION_NOT_FOUND")
    assert server.http.get(place.format(made)).status_code == 405


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("", ""),
        ("\n", ""),
        ("a\r\n", "a"),
        ("a\r", "a"),
        (" é\0 ", " é\0 "),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_line_ends_with_enter(value: str, line: str) -> None:
    """One line end is what Enter gives; all else is the line's own."""
    assert parse_line(value) == line


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\n\n", "\r\r", "a\n\r"])
def test_several_lines_are_refused(value: str) -> None:
    """Each question takes one line: which one would be a guess."""
    with pytest.raises(InvalidRequest, match="one line"):
        parse_line(value)


def test_longest_line() -> None:
    """A line has a bound."""
    assert parse_line("x" * MAX_LINE_LENGTH + "\n") == "x" * MAX_LINE_LENGTH
    with pytest.raises(TooLarge):
        parse_line("x" * (MAX_LINE_LENGTH + 1))
