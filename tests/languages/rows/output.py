"""Rows about what programs print and display."""

from __future__ import annotations

import time

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, row


@row(leaves_nothing=True)
def hello(session: SessionClient, hello: str) -> None:
    """What a program prints is in stdout and nowhere else."""
    check(session.run(hello), stdout="hello\n", stderr="", exit_code=0, results=[])


@row(leaves_nothing=True)
def stderr(session: SessionClient, to_stderr: str) -> None:
    """What a program writes to stderr stays out of stdout."""
    check(session.run(to_stderr), stdout="", stderr="problem\n", exit_code=0)


@row(leaves_nothing=True)
def each_stream_in_order(session: SessionClient, alternating: str) -> None:
    """Each of the two streams arrives in the order in which it was written."""
    answer = session.run(alternating)
    check(answer, stdout="".join(f"out {n}\n" for n in range(20)))
    check(answer, stderr="".join(f"err {n}\n" for n in range(20)))


@row(leaves_nothing=True)
def both_streams_in_order(session: SessionClient, alternating_in_order: str) -> None:
    """Events keep the order in which the program wrote to the two streams."""
    events = session.stream(alternating_in_order)
    text = "".join(e.data["content"] for e in events if e.event in {"stdout", "stderr"})
    assert text == "".join(f"out {n}\nerr {n}\n" for n in range(20))


@row(leaves_nothing=True)
def one_big_write(session: SessionClient, one_big_write: str) -> None:
    """A megabyte in one write arrives whole."""
    assert session.run(one_big_write)["stdout"] == "x" * 1_000_000


@row(leaves_nothing=True)
def many_lines(session: SessionClient, many_lines: str) -> None:
    """10 MB in 100 000 lines arrive byte for byte, in the stream and in the stored text."""
    expected = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
    events = session.stream(many_lines)
    streamed = "".join(e.data["content"] for e in events if e.event == "stdout")
    is_whole = streamed == expected  # pytest would compare texts of 10 MB line by line
    assert is_whole, len(streamed)
    execution = events[-1].data["execution_id"]
    stored = session.http.get(f"{session.path}/executions/{execution}/stdout")
    is_whole = stored.text == expected
    assert is_whole, len(stored.text)


@row(leaves_nothing=True)
def child_output(session: SessionClient, child_output: str) -> None:
    """Output of children stands in order with the program's own."""
    check(session.run(child_output), stdout="a\nb\nc\n")


@row()
def late_output(session: SessionClient, late_output: str, wait_for_late: str, hello: str) -> None:
    """What a background task prints after the run's end is in no later run."""
    check(session.run(late_output), stdout="")
    check(session.run(wait_for_late), stdout="first\nsecond\n")
    check(session.run(hello), stdout="hello\n")


@row(leaves_nothing=True)
def unicode(session: SessionClient, unicode: str) -> None:
    """Text of every plane arrives."""
    check(session.run(unicode), stdout="naïve ☃ 😀\n")


@row(leaves_nothing=True)
def nul(session: SessionClient, nul: str) -> None:
    """NUL arrives."""
    check(session.run(nul), stdout="a\0b\n")


@row(leaves_nothing=True)
def invalid_utf8(session: SessionClient, invalid_utf8: str) -> None:
    """Bytes that are no text arrive as U+FFFD."""
    check(session.run(invalid_utf8), stdout="a\ufffdb")


@row(leaves_nothing=True)
def first_event_is_early(session: SessionClient, slow_print: str) -> None:
    """The first print is streamed while the program still runs."""
    with session.open_stream(slow_print) as events:
        first = next(events)
        seen = time.monotonic()
        assert (first.event, first.data["content"]) == ("stdout", "first\n")
        assert list(events)[-1].event == "done"
    assert time.monotonic() - seen > 0.5


@row("rich_output", leaves_nothing=True)
def last_expression(session: SessionClient, last_expression: str) -> None:
    """The value of the last expression is a result and not part of stdout."""
    answer = session.run(last_expression)
    check(answer, stdout="", exit_code=0)
    [result] = answer["results"]
    assert result["type"] == "execute_result"
    assert result["data"]["text/plain"] == "42"


@row("rich_output", leaves_nothing=True)
def rich_output(session: SessionClient, display_html: str) -> None:
    """What a program displays as HTML is a result with that type."""
    answer = session.run(display_html)
    check(answer, exit_code=0)
    assert [result["data"].get("text/html") for result in answer["results"]] == ["<b>rich</b>"]
