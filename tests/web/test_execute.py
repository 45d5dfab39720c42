"""One-shot runs: how their ends are told, and what reaches the service of a large body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest


@pytest.fixture(autouse=True)
def clean(server: ServerUnderTest) -> Iterator[None]:
    """Each test sees its own runs only."""
    yield
    server.sessions.runs.clear()
    server.sessions.calls.clear()


def execute(server: ServerUnderTest, code: str, **body: Any) -> httpx.Response:
    return server.http.post("/api/execute", json={"language": LANGUAGE, "code": code, **body})


def test_death(server: ServerUnderTest) -> None:
    """A program that dies is reported with its cause."""
    answer = execute(server, "out before\ndie 9")
    assert answer.status_code == 200
    assert (answer.json()["exit_code"], answer.json()["cause"]) == (137, "signal 9")
    assert answer.json()["stdout"] == "before\n"


def test_truncated(server: ServerUnderTest) -> None:
    """Truncated output is reported; nothing of a throw-away session can be asked for later."""
    shown = execute(server, "truncate").json()
    assert shown["truncated"] is True
    assert "full_output" not in shown


def test_big_env_with_numbers(server: ServerUnderTest) -> None:
    """Numbers of a big body's environment are what was written."""
    code = "#" * 2_000_000
    body = f'{{"language":"{LANGUAGE}","code":"{code}","env":{{"A":1.50,"B":true}}}}'
    assert server.http.post("/api/execute", content=body).status_code == 200
    assert server.sessions.calls[0][2].env == {"A": "1.50", "B": "true"}
