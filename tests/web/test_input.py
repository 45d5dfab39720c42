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
