"""Stored code: put, shown, run where a run brings none, kept apart from the data."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import Client, SessionClient, parse_sse
from tests.contract.checks import TIME, check, check_error


def put(session: SessionClient, code: str, **body: Any) -> dict[str, Any]:
    answer = session.http.put(f"{session.path}/code", json={"code": code, **body})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def get(session: SessionClient) -> dict[str, Any]:
    shown: dict[str, Any] = session.http.get(f"{session.path}/code").raise_for_status().json()
    return shown


def test_put(session: SessionClient) -> None:
    """The answer has the length in characters and the time."""
    shown = put(session, "print('é😀')")
    assert set(shown) == {"success", "code_length", "updated_at"}
    check(shown, success=True, code_length=11)
    assert TIME.fullmatch(shown["updated_at"])


def test_get(session: SessionClient) -> None:
    """The code is shown with its description, time and length."""
    stored = put(session, "x = '\x00é'\r\n", description="about it")
    shown = get(session)
    assert set(shown) == {"code", "description", "updated_at", "code_length"}
    check(shown, code="x = '\x00é'\r\n", description="about it", code_length=10)
    assert shown["updated_at"] == stored["updated_at"]


def test_absent_description_is_kept(session: SessionClient) -> None:
    """Only a description that is given replaces the old one; before the first it is empty."""
    put(session, "a")
    check(get(session), description="")
    put(session, "b", description="mine")
    for code, body in (("c", {}), ("n", {"description": None})):
        put(session, code, **body)
        check(get(session), code=code, description="mine")
    put(session, "d", description="")
    check(get(session), description="")


def test_none(client: Client, session: SessionClient) -> None:
    """Where there is none it is 404 with a hint; so is a session that is not there."""
    shown = check_error(session.http.get(f"{session.path}/code"), 404, "NOT_FOUND")
    assert "PUT" in shown["hint"]
    for method in ("GET", "PUT"):
        answer = client.http.request(method, "/api/sessions/none/code", json={"code": "x"})
        check_error(answer, 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(
    "body", [{}, {"code": 1}, {"code": None}, {"code": ["a"]}, {"code": "a", "description": 1}]
)
def test_bad_put(session: SessionClient, body: dict[str, Any]) -> None:
    """A wrong body stores nothing, and is told by its field."""
    answer = session.http.put(f"{session.path}/code", json=body)
    field = "description" if "description" in body else "code"
    assert f"`{field}`" in check_error(answer, 400, "INVALID_REQUEST")["message"]
    check_error(session.http.get(f"{session.path}/code"), 404, "NOT_FOUND")


def test_run_and_stream(session: SessionClient) -> None:
    """A run and a stream without code run what is stored, with variables like any other run."""
    put(session, "n = globals().get('n', 0) + 1\nprint('stored', n)")
    answer = session.http.post(f"{session.path}/run", json={"update_data": {"a": 1}}).json()
    check(answer, stdout="stored 1\n", data={"a": 1})
    with session.http.stream("POST", f"{session.path}/stream", json={}) as response:
        events = list(parse_sse(response.iter_lines()))
    assert [event.data["content"] for event in events if event.event == "stdout"] == ["stored 2\n"]
    check(session.run("print('own', n)"), stdout="own 2\n")
    listed = session.executions()
    assert [one["code"].partition("\n")[0][:4] for one in listed] == ["n = ", "n = ", "prin"]


@pytest.mark.parametrize("kind", ["run", "stream"])
def test_which_code_runs(session: SessionClient, kind: str) -> None:
    """However code is left out, the stored one runs; code that is given wins, an empty one too."""
    put(session, "print('stored')")
    for body in (b"", b"{}", b'{"code":null}', b'{"env":{"A":"b"}}', b'{"code":""}'):
        answer = session.http.post(f"{session.path}/{kind}", content=body)
        assert ("stored" in answer.text) == (b'""' not in body), answer.text


@pytest.mark.parametrize("kind", ["run", "stream"])
def test_neither(session: SessionClient, kind: str) -> None:
    """A run without code, where none is stored, fails and its message says both."""
    answer = session.http.post(f"{session.path}/{kind}", json={})
    message = check_error(answer, 400, "INVALID_REQUEST")["message"]
    assert "`code` is required" in message
    assert "stored" in message
    assert session.http.get(f"{session.path}/executions").json()["total"] == 0


def test_initial_code(client: Client) -> None:
    """`data.code` at creation is stored as code, and later changes of the data change none."""
    session = client.session("python", data={"code": "print('seed')", "k": 1})
    check(get(session), code="print('seed')", description="", code_length=13)
    check(session.get(), data={"code": "print('seed')", "k": 1})
    session.http.patch(session.path, json={"data": {"code": "print('other')"}}).raise_for_status()
    check(get(session), code="print('seed')")
    put(session, "print('new')")
    check(session.get(), data={"code": "print('other')"})
    session.delete()
    session = client.session("python", data={"code": 5})  # no text: it is only data
    check_error(session.http.get(f"{session.path}/code"), 404, "NOT_FOUND")
    session.delete()


def test_deleted_with_the_session(client: Client) -> None:
    """The next session of that id has none."""
    session = client.session("python", session_id="coded")
    put(session, "print(1)")
    session.delete()
    again = client.session("python", session_id="coded")
    check_error(again.http.get(f"{again.path}/code"), 404, "NOT_FOUND")
    again.delete()


def test_long_code(session: SessionClient) -> None:
    """What may be run may be stored: megabytes are fine, what no body may hold is not."""
    code = "#" * 8_000_000 + "\nprint('end')"
    check(put(session, code), code_length=len(code))
    answer = session.http.put(f"{session.path}/code", json={"code": "x" * 34_000_000})
    check_error(answer, 413, "TOO_LARGE")
    answer = session.http.put(f"{session.path}/code", json={"code": "x", "description": code})
    check_error(answer, 413, "TOO_LARGE")
    assert get(session)["code"] == code


def test_not_in_lists(client: Client, session: SessionClient) -> None:
    """Stored code is shown by its own path only."""
    put(session, "print('a secret of mine')")
    assert "a secret of mine" not in client.http.get("/api/sessions").text
    assert "a secret of mine" not in client.http.get(session.path).text


def test_without_persistence(client: Client) -> None:
    """Files of a session that is not persistent go with its kernel; stored code stays."""
    session = client.session("python", persistent=False)
    put(session, "print('still here')")
    session.run("import os; os._exit(0)")
    check(session.http.post(f"{session.path}/run", json={}).json(), stdout="still here\n")
    session.delete()
