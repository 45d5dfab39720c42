"""What contract tests look for again and again."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx

from tests.client import Client, SessionClient
from tests.server_process import temporary_launcher
from tests.waiting import wait_until
from tests.web.serving import RawResponse, parse_response, read_all

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DURATION = re.compile(r"\d+(\.\d+)?ms|\d+\.\d\ds|(\d+h)?\d+m\d+s")
JSON_TYPE = "application/json; charset=utf-8"

Start = Callable[..., Client]  # starts a server with these flags

SLEEPING_CODE = "open('ready', 'w').close()\nimport time\ntime.sleep(60)"


@contextmanager
def open_client(*flags: str, **headers: str) -> Iterator[Client]:
    """Starts a server with these flags; gives a client of it that sends these headers."""
    with (
        temporary_launcher() as launcher,
        closing(Client(launcher.start(*flags).base_url, headers)) as client,
    ):
        yield client


def check(answer: dict[str, Any], **expected: object) -> None:
    """Compare the fields named, showing the whole answer when one differs."""
    assert {name: answer.get(name) for name in expected} == expected, answer


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of errors: the triple, a full sentence, nothing of the inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == JSON_TYPE
    return check_error_object(answer.json(), code)


def check_error_object(shown: dict[str, Any], code: str) -> dict[str, Any]:
    assert set(shown) <= {"error", "message", "code", "details", "hint", "id", "format", "warnings"}
    assert shown["code"] == code, shown
    assert len(shown["error"]) < 40
    assert shown["message"].endswith(".")
    assert "Traceback" not in json.dumps(shown)
    return shown


def send_raw(port: int, data: bytes, silence: float = 1.0) -> bytes:
    """Everything the server says to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(data)
        return read_all(sock, silence)


def send_and_parse(port: int, data: bytes) -> RawResponse:
    """The one answer to these bytes."""
    raw = send_raw(port, data)
    assert raw.count(b"HTTP/1.1 ") == 1, raw
    return parse_response(raw)


def send_pipelined(base_url: str, requests: list[str]) -> list[int]:
    """Sends requests by one connection, where none waits for another's answer.

    A request is its start line and, after a line break, its body. Returns the statuses.
    """
    heads = [request.partition("\n")[::2] for request in requests]
    texts = [
        f"{start} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        for start, body in heads
    ]
    texts[-1] = texts[-1].replace("\r\n", "\r\nConnection: close\r\n", 1)
    raw = send_raw(int(base_url.rpartition(":")[2]), "".join(texts).encode(), 20)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", raw)]


@contextmanager
def background_runs(session: SessionClient) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Starts runs whose answers come later."""
    with ThreadPoolExecutor(8) as pool:

        def start(code: str, **body: Any) -> Future[httpx.Response]:
            request = {"code": code, **body}
            return pool.submit(session.http.post, f"{session.path}/run", json=request)

        yield start


def wait_for_file(session: SessionClient, path: str = "ready") -> None:
    """Until code in the session has made that file."""

    def made() -> bool:
        return any(file["path"] == path for file in session.get()["files"])

    assert wait_until(made, 20), f"no file {path}"


def wait_for_executions(session: SessionClient, number: int) -> None:
    """Until that many executions are listed."""
    path = f"{session.path}/executions"
    assert wait_until(lambda: session.http.get(path).json()["total"] == number, 20)
