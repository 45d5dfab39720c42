"""Lists of sessions: what is asked of the service, and how a long answer is encoded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest


@pytest.fixture(autouse=True)
def clean(server: ServerUnderTest) -> None:
    """Each test begins without sessions."""
    server.sessions.sessions.clear()
    server.sessions.calls.clear()


@pytest.mark.parametrize(
    ("query", "call"),
    [
        ("", (None, 0, None, "", {})),
        ("?limit=2", (2, 0, None, "", {})),
        ("?limit=2&offset=1", (2, 1, None, "", {})),
        ("?limit=0", (0, 0, None, "", {})),
        ("?language=li&nothing=1", (None, 0, "li", "", {})),
        ("?prefix=a-", (None, 0, None, "a-", {})),
        (
            "?metadata.owner=ada&metadata.a.b=&metadata.%C3%A9=1&metadata.owner=eve",
            (None, 0, None, "", {"owner": "eve", "a.b": "", "é": "1"}),
        ),
        ("?limit=&language=", (None, 0, None, "", {})),
    ],
)
def test_paging(server: ServerUnderTest, query: str, call: tuple[Any, ...]) -> None:
    """Limit, offset and language are handed on."""
    server.http.get("/api/sessions" + query).raise_for_status()
    assert server.sessions.calls == [("list", *call)]


def test_long_list(server: ServerUnderTest) -> None:
    """A list that is encoded in a thread is the same list."""
    body = {"language": LANGUAGE, "id": "first"}
    assert server.http.post("/api/sessions", json=body).status_code == 201
    first = server.sessions.sessions["first"]
    for number in range(500):
        server.sessions.sessions[f"n{number}"] = dataclasses.replace(first, id=f"n{number}")
    answer = server.http.get("/api/sessions").json()
    assert (len(answer["sessions"]), answer["count"], answer["total"]) == (501, 501, 501)
