"""Duplicate: what is asked for reaches the service, what it says reaches the client."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from era_kernels.services.session_duplication import DuplicateRequest
from tests.web.serving import ServerUnderTest, eventually


def submitted_request(server: ServerUnderTest) -> DuplicateRequest:
    request = [call for call in server.sessions.calls if call[0] == "duplicate"][-1][2]
    assert isinstance(request, DuplicateRequest)
    return request


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, DuplicateRequest()),
        ({"new_id": "c1"}, DuplicateRequest("c1")),
        ({"id": "c2"}, DuplicateRequest("c2")),
        ({"new_id": "c3", "id": "other"}, DuplicateRequest("c3")),
        ({"data": {}}, DuplicateRequest(data={})),
        ({"data": {"a": 2**70}}, DuplicateRequest(data={"a": 2**70})),
        ({"variables": True}, DuplicateRequest()),
        ({"variables": False}, DuplicateRequest(skip_queue=True)),
        ({"new_id": None, "id": None, "data": None, "variables": None}, DuplicateRequest()),
        ({"unknown": 1}, DuplicateRequest()),
    ],
)
def test_request_reaches_the_service(
    server: ServerUnderTest, session: str, body: dict[str, Any], expected: DuplicateRequest
) -> None:
    """Both names of the id; data and variables as given; null is the default."""
    assert server.http.post(f"{session}/duplicate", json=body).status_code == 201
    assert submitted_request(server) == expected


def test_empty_body(server: ServerUnderTest, session: str) -> None:
    """An empty body is a valid request, too."""
    assert server.http.post(f"{session}/duplicate").status_code == 201
    assert submitted_request(server) == DuplicateRequest()


def test_answer(server: ServerUnderTest, session: str) -> None:
    """The new session's object, where it comes from, and what of the interpreter was copied."""
    answer = server.http.post(f"{session}/duplicate", json={"new_id": "c4", "data": {"b": 1}})
    assert answer.status_code == 201
    shown = answer.json()
    assert shown.pop("source_session_id") == session.rpartition("/")[2]
    assert shown.pop("copy") == {"mode": "files", "copied": [], "lost": []}
    made = server.http.get("/api/sessions/c4").json()
    del made["files"]
    assert shown == made
    assert (shown["id"], shown["session_id"], shown["data"]) == ("c4", "c4", {"b": 1})
    assert "error" not in answer.text


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"new_id": "../x"}, "INVALID_ID", "new_id"),
        ({"id": ""}, "INVALID_ID", "id"),
        ({"new_id": 1}, "INVALID_REQUEST", "new_id"),
        ({"data": []}, "INVALID_REQUEST", "data"),
        ({"variables": "no"}, "INVALID_REQUEST", "variables"),
    ],
)
def test_bad_request(
    server: ServerUnderTest, session: str, body: dict[str, Any], code: str, field: str
) -> None:
    """Wrong fields are named."""
    answer = server.http.post(f"{session}/duplicate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert f"`{field}`" in answer.json()["message"]


def test_refusals(server: ServerUnderTest, session: str) -> None:
    """A taken id, no source, no room: each has its status and code."""
    name = session.rpartition("/")[2]
    taken = server.http.post(f"{session}/duplicate", json={"new_id": name})
    assert (taken.status_code, taken.json()["code"]) == (409, "SESSION_EXISTS")
    assert taken.json()["id"] == name
    gone = server.http.post("/api/sessions/gone/duplicate", json={})
    assert (gone.status_code, gone.json()["code"]) == (404, "SESSION_NOT_FOUND")
    full = server.http.post(f"{session}/duplicate", json={"new_id": "full"})
    assert (full.status_code, full.json()["code"]) == (507, "INSUFFICIENT_STORAGE")


def test_client_that_leaves(server: ServerUnderTest, session: str) -> None:
    """The copying ends when its client leaves."""
    body = json.dumps({"new_id": "slow"}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = f"POST {session}/duplicate HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert eventually(lambda: any(call[0] == "duplicate" for call in server.sessions.calls))
    assert eventually(lambda: ("left", "slow") in server.sessions.calls)
