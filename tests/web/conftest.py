"""One server without tokens for the module, one session in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest, run_server


@pytest.fixture(scope="module")
def server() -> Iterator[ServerUnderTest]:
    with run_server() as served:
        yield served


@pytest.fixture
def session(server: ServerUnderTest) -> Iterator[str]:
    """The path of a session."""
    answer = server.http.post("/api/sessions", json={"language": LANGUAGE, "session_id": "s1"})
    assert answer.status_code == 201, answer.text
    yield "/api/sessions/s1"
    server.sessions.sessions.clear()
    server.sessions.runs.clear()
    server.sessions.calls.clear()
    server.codes.stored.clear()
