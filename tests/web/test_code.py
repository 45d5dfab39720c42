"""Stored code: what is taken and given, and runs without code."""

from __future__ import annotations

import httpx
import pytest

from tests.web.fakes import FakeLiveExecution
from tests.web.serving import ServerUnderTest


def put(server: ServerUnderTest, session: str, **body: object) -> httpx.Response:
    return server.http.put(f"{session}/code", json=body)


def last_run(server: ServerUnderTest) -> FakeLiveExecution:
    return list(server.sessions.runs.values())[-1]


def test_put(server: ServerUnderTest, session: str) -> None:
    """The answer counts characters, not bytes."""
    answer = put(server, session, code="é☃😀")
    assert answer.status_code == 200
    assert answer.json() == {
        "success": True,
        "code_length": 3,
        "updated_at": "2025-01-15T10:30:00.000Z",
    }


def test_get(server: ServerUnderTest, session: str) -> None:
    """Everything that is stored is shown."""
    put(server, session, code="é", description="about")
    assert server.http.get(f"{session}/code").json() == {
        "code": "é",
        "description": "about",
        "updated_at": "2025-01-15T10:30:00.000Z",
        "code_length": 1,
    }


@pytest.mark.parametrize("body", [{}, {"description": None}])
def test_description_stays(server: ServerUnderTest, session: str, body: dict[str, object]) -> None:
    """A description that is absent, or null, is kept; an empty one is one."""
    put(server, session, code="a", description="about")
    put(server, session, code="b", **body)
    assert server.http.get(f"{session}/code").json()["description"] == "about"
    put(server, session, code="c", description="")
    assert server.http.get(f"{session}/code").json()["description"] == ""


@pytest.mark.parametrize(
    "body", [{}, {"code": None}, {"code": 1}, {"code": ["a"]}, {"code": "a", "description": 1}]
)
def test_bad_put(server: ServerUnderTest, session: str, body: dict[str, object]) -> None:
    """Wrong fields are named, and nothing is stored."""
    answer = server.http.put(f"{session}/code", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    field = "description" if body.get("code") == "a" else "code"
    assert f"`{field}`" in answer.json()["message"]
    assert session.rpartition("/")[2] not in server.codes.stored


def test_none(server: ServerUnderTest, session: str) -> None:
    """Where there is none, it is 404 with a hint."""
    answer = server.http.get(f"{session}/code")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert answer.json()["hint"]


@pytest.mark.parametrize("kind", ["run", "stream"])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"code":null}', b'{"env":{"A":"b"}}'])
def test_run_of_stored_code(server: ServerUnderTest, session: str, kind: str, body: bytes) -> None:
    """A run or a stream that brings no code runs what is stored."""
    put(server, session, code="out stored")
    answer = server.http.post(f"{session}/{kind}", content=body)
    assert "stored\\n" in answer.text
    assert last_run(server).submission.code == "out stored"


@pytest.mark.parametrize("code", ["", "out mine"])
def test_run_of_its_own_code(server: ServerUnderTest, session: str, code: str) -> None:
    """Code that a run brings wins, also when it is empty."""
    put(server, session, code="out stored")
    server.http.post(f"{session}/run", json={"code": code})
    assert last_run(server).submission.code == code


def test_long_code(server: ServerUnderTest, session: str) -> None:
    """Code of megabytes goes in and out as it is."""
    code = "x = 'é'\n" * 300_000
    assert put(server, session, code=code).json()["code_length"] == len(code)
    assert server.http.get(f"{session}/code").json()["code"] == code
