"""What stored code prints becomes an answer: a JSON object with its fields, or a text."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from era_kernels.errors import BadGateway, GatewayTimeout, TooLarge
from era_kernels.models import ErrorEvent
from era_kernels.services.executions.result import RunResult
from era_kernels.web.proxy_headers import Headers, Place
from era_kernels.web.stored_code_exchange import MAX_BODY, parse_answer, request_env

PLACE = Place("/proxy/s1/80", "era.example", 80, "/a")
JSON, TEXT = "application/json; charset=utf-8", "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("stdout", "exit_code", "status", "kind"),
    [
        ("hello\n", 0, 200, TEXT),
        ("hello\n", 3, 500, TEXT),
        ("hello\n", 124, 500, TEXT),  # the program's own end, which is none at the deadline
        ("", 0, 200, TEXT),
        ("[1]", 0, 200, TEXT),
        ("1", 0, 200, TEXT),
        ('{"a": 1} tail', 0, 200, TEXT),
        ('{"a": NaN}', 0, 200, TEXT),
        ('{"a":1}\n', 0, 200, JSON),
        ('{"a":1}', 3, 200, JSON),
        ('{"status": 201}', 0, 201, JSON),
        ('{"status": 599}', 0, 599, JSON),
        ('{"status": 199}', 0, 200, JSON),
        ('{"status": 600}', 0, 200, JSON),
        ('{"status": true}', 0, 200, JSON),
        ('{"status": "404"}', 0, 200, JSON),
        ('{"status": 404.0}', 0, 200, JSON),
        ('{"contentType": "text/html"}', 0, 200, "text/html"),
        ('{"contentType": 1}', 0, 200, JSON),
        ('{"contentType": "a\\r\\nX: b"}', 0, 200, JSON),
    ],
)
async def test_answers(stdout: str, exit_code: int, status: int, kind: str) -> None:
    """The body is what was printed, whole and unchanged."""
    result = RunResult("e", "s1", stdout=stdout, exit_code=exit_code)
    assert await parse_answer(result, PLACE) == (status, [("Content-Type", kind)], stdout.encode())


@pytest.mark.parametrize("stdout", ["text", '{"status": 201}'])
async def test_what_is_not_whole(stdout: str) -> None:
    """What was cut short is no answer, whatever it looks like."""
    for code, expected in (("EXECUTION_TIMEOUT", GatewayTimeout), ("OUTPUT_LIMIT", BadGateway)):
        error = ErrorEvent("Title", "It was ended.", code)
        with pytest.raises(expected):
            await parse_answer(RunResult("e", "s1", stdout=stdout, error=error), PLACE)
    with pytest.raises(BadGateway, match="max_answer_output"):
        await parse_answer(RunResult("e", "s1", stdout=stdout, is_stdout_whole=False), PLACE)


async def test_headers() -> None:
    """Headers are added, but those of the connection, of the body and of the whole host."""
    given = """{"headers": {"X-A": "b", "X-N": 1, "Location": "/x", "Connection": "close",
        "Transfer-Encoding": "chunked", "Content-Length": "9", "Content-Type": "x/y", "a b": "c",
        "X-Bad": "a\\r\\nb", "X-List": [], "Alt-Svc": "h3", "Set-Cookie": "a=b; Path=/", "": "x",
        "X-Wide": "\u2603"}}"""
    _, headers, _ = await parse_answer(RunResult("e", "s1", stdout=given, exit_code=0), PLACE)
    assert headers[1:] == [
        ("X-A", "b"),
        ("X-N", "1"),
        ("Location", "/proxy/s1/80/x"),
        ("Set-Cookie", "a=b; Path=/proxy/s1/80"),
    ]


@pytest.mark.parametrize(
    ("headers", "body"), [([], b"\xff" * MAX_BODY), ([("X-A", "\x01" * 60_000)], b"")]
)
def test_more_than_a_variable_holds(headers: Headers, body: bytes) -> None:
    """What takes more as text than Linux takes of a variable is 413, and starts no program."""
    line = RequestStartLine("POST", "/x", "HTTP/1.1")
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "e"}))
    with pytest.raises(TooLarge):
        request_env(request, PLACE, headers, body)
