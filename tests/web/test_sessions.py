"""Sessions: what is asked of the service, and how its answers are shown."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from era_kernels.models import Limits, NewSession
from tests.web.fakes import CREATED_AT, LANGUAGE
from tests.web.serving import ServerUnderTest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def create(server: ServerUnderTest, **body: Any) -> dict[str, Any]:
    """The answer to a request for a session."""
    answer = server.http.post("/api/sessions", json={"language": LANGUAGE, **body})
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


@pytest.fixture(autouse=True)
def clean(server: ServerUnderTest) -> None:
    """Each test begins without sessions."""
    server.sessions.sessions.clear()
    server.sessions.calls.clear()


# ---------------------------------------------------------------- create


def test_create_with_everything(server: ServerUnderTest) -> None:
    """Every field of the request reaches the service, and is shown."""
    shown = create(
        server,
        language="LI",
        session_id="mine",
        persistent=False,
        data={"user": "ann"},
        metadata={"team": 7},
        default_timeout=120,
        ttl=90,
        allowInternetAccess=True,
        allowPublicAccess=False,
        limits={"memory_mb": 256, "cpu": 1},
        mounts=["data"],
        unknown="ignored",
    )
    assert server.sessions.calls == [
        (
            "create",
            NewSession(
                "LI",
                "mine",
                False,
                {"user": "ann"},
                {"team": 7},
                120,
                90,
                True,
                False,
                Limits(memory=256 * 1024 * 1024, cpu=1),
                ("data",),
            ),
        )
    ]
    assert shown == {
        "id": "mine",
        "session_id": "mine",
        "created_at": "2025-01-15T10:30:00.000Z",
        "last_run_at": "",
        "language": LANGUAGE,
        "persistent": False,
        "file_count": 0,
        "total_size_bytes": 0,
        "metadata": {"team": 7},
        "allowInternetAccess": True,
        "allowPublicAccess": False,
        "status": "idle",
        "kernel_generation": 0,
        "isolation": {"tier": 4, "missing": ["files", "network"]},
        "default_timeout": 120,
        "ttl": 90,
        "limits": {"memory_mb": 256, "cpu": 1},
        "mounts": ["data"],
        "data": {"user": "ann"},
        "warnings": ["unknown is not known"],
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {
            "persistent": None,
            "session_id": None,
            "id": None,
            "data": None,
            "metadata": None,
            "default_timeout": None,
            "ttl": None,
            "allowInternetAccess": None,
            "allowPublicAccess": None,
            "limits": None,
            "mounts": None,
        },
    ],
    ids=["absent", "null"],
)
def test_create_with_defaults(server: ServerUnderTest, body: dict[str, Any]) -> None:
    """What is absent or null is left to the service."""
    shown = create(server, **body)
    assert server.sessions.calls == [("create", NewSession(LANGUAGE))]
    assert not {"default_timeout", "ttl", "limits", "mounts"} & set(shown)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"id": "a"}, "a"),
        ({"session_id": "a"}, "a"),
        ({"session_id": "a", "id": "b"}, "a"),
        ({"session_id": None, "id": "b"}, "b"),
    ],
)
def test_both_names_of_the_id(server: ServerUnderTest, body: dict[str, Any], expected: str) -> None:
    """The id may be given under either name; `session_id` wins."""
    assert create(server, **body)["id"] == expected


def test_created_text(server: ServerUnderTest) -> None:
    """Existing shell clients find the id without a parser, and no `error` in the answer."""
    answer = server.http.post("/api/sessions", json={"language": LANGUAGE, "id": "x"})
    assert answer.text.startswith('{"id":"x","session_id":"x",')
    assert "error" not in answer.text


def test_created_twice(server: ServerUnderTest) -> None:
    """A taken id is a conflict that names the id."""
    create(server, id="twice")
    answer = server.http.post("/api/sessions", json={"language": LANGUAGE, "id": "twice"})
    assert (answer.status_code, answer.json()["code"]) == (409, "SESSION_EXISTS")
    assert answer.json()["id"] == "twice"


def test_unknown_language(server: ServerUnderTest) -> None:
    """The error of the service is passed on with what it lists."""
    answer = server.http.post("/api/sessions", json={"language": "latin"})
    assert (answer.status_code, answer.json()["code"]) == (400, "UNSUPPORTED_LANGUAGE")
    assert answer.json()["details"] == [LANGUAGE]


@pytest.mark.parametrize(
    ("seconds", "text"), [(120, '"default_timeout":120,'), (0.5, '"default_timeout":0.5,')]
)
def test_default_timeout_as_given(server: ServerUnderTest, seconds: float, text: str) -> None:
    """A timeout is shown as it was given, without a needless fraction."""
    answer = server.http.post(
        "/api/sessions", json={"language": LANGUAGE, "default_timeout": seconds}
    )
    assert text in answer.text


@pytest.mark.parametrize("huge", ["1" + "0" * 400, "1e308", "1e300"])
def test_giant_timeout(server: ServerUnderTest, huge: str) -> None:
    """A number that no clock can hold is no bug of the server."""
    body = f'{{"language":"{LANGUAGE}","default_timeout":{huge}}}'
    answer = server.http.post("/api/sessions", content=body)
    assert answer.status_code in (201, 400), answer.text


# ---------------------------------------------------------------- list, show


def test_list(server: ServerUnderTest) -> None:
    """A list shows everything but `data`, and what there is in all."""
    for name in "abc":
        create(server, id=name, data={"secret": 1})
    answer = server.http.get("/api/sessions").json()
    assert (answer["count"], answer["total"]) == (3, 3)
    assert [one["id"] for one in answer["sessions"]] == ["a", "b", "c"]
    assert all("data" not in one and "files" not in one for one in answer["sessions"])


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


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1.5", "offset=-2"])
def test_bad_paging(server: ServerUnderTest, query: str) -> None:
    """An invalid number is reported by its name."""
    answer = server.http.get("/api/sessions?" + query)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert f"`{query.partition('=')[0]}`" in answer.json()["message"]


def test_long_list(server: ServerUnderTest) -> None:
    """A list that is encoded in a thread is the same list."""
    create(server, id="first")
    first = server.sessions.sessions["first"]
    for number in range(500):
        server.sessions.sessions[f"n{number}"] = dataclasses.replace(first, id=f"n{number}")
    answer = server.http.get("/api/sessions").json()
    assert (len(answer["sessions"]), answer["count"], answer["total"]) == (501, 501, 501)


def test_show(server: ServerUnderTest) -> None:
    """A session is shown with its data and its files."""
    create(server, id="a", data={"k": 1})
    answer = server.http.get("/api/sessions/a").json()
    assert answer["data"] == {"k": 1}
    assert answer["files"] == [
        {"path": "made.txt", "size": 4, "modified_at": "2025-01-15T10:30:00.000Z"}
    ]


# ---------------------------------------------------------------- change


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({}, {}),
        ({"unknown": 1}, {}),
        ({"default_timeout": 5}, {"default_timeout": 5}),
        ({"default_timeout": None}, {"default_timeout": None}),
        ({"ttl": 0.5}, {"ttl": 0.5}),
        ({"ttl": None}, {"ttl": None}),
        ({"allowInternetAccess": False}, {"allow_internet": False}),
        ({"allowPublicAccess": True}, {"allow_public": True}),
        ({"metadata": {}}, {"metadata": {}}),
        ({"metadata": {"a": 1}, "data": {"b": 2}}, {"metadata": {"a": 1}, "data": {"b": 2}}),
    ],
)
def test_change(server: ServerUnderTest, body: dict[str, Any], changes: dict[str, Any]) -> None:
    """Only what was given is changed."""
    create(server, id="a")
    answer = server.http.patch("/api/sessions/a", json=body)
    assert answer.status_code == 200, answer.text
    assert server.sessions.calls[-1] == ("update", "a", changes)


def test_changed_answer(server: ServerUnderTest) -> None:
    """The answer holds the whole session under `metadata`, as the reference page has it."""
    create(server, id="a")
    answer = server.http.patch("/api/sessions/a", json={"default_timeout": 300}).json()
    assert set(answer) == {"success", "id", "metadata", "updated_at"}
    assert (answer["success"], answer["id"]) == (True, "a")
    assert TIME.fullmatch(answer["updated_at"])
    assert answer["metadata"]["default_timeout"] == 300
    assert answer["metadata"]["session_id"] == "a"


@pytest.mark.parametrize(
    "body",
    [
        {"default_timeout": 0},
        {"default_timeout": -1},
        {"default_timeout": "5"},
        {"default_timeout": True},
        {"ttl": 0},
        {"ttl": -1.5},
        {"ttl": "60"},
        {"allowInternetAccess": None},
        {"allowPublicAccess": 1},
        {"metadata": None},
        {"data": []},
    ],
)
def test_bad_change(server: ServerUnderTest, body: dict[str, Any]) -> None:
    """A wrong value changes nothing and is reported by its field."""
    create(server, id="a")
    answer = server.http.patch("/api/sessions/a", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert f"`{next(iter(body))}`" in answer.json()["message"]
    assert server.sessions.calls[-1][0] == "create"


# ---------------------------------------------------------------- delete, restart


def test_delete(server: ServerUnderTest) -> None:
    """A deletion is answered with its time; the second finds nothing."""
    create(server, id="a")
    assert server.http.delete("/api/sessions/a").json() == {
        "success": True,
        "id": "a",
        "deleted_at": CREATED_AT.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
    }
    for method in ("DELETE", "GET", "PATCH"):
        answer = server.http.request(method, "/api/sessions/a")
        assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")


def test_delete_all(server: ServerUnderTest) -> None:
    """All sessions go, and are named."""
    for name in "ab":
        create(server, id=name)
    answer = server.http.delete("/api/sessions").json()
    assert (answer["success"], answer["deleted_count"]) == (True, 2)
    assert answer["deleted_sessions"] == ["a", "b"]
    assert TIME.fullmatch(answer["deleted_at"])
    assert server.http.delete("/api/sessions").json()["deleted_count"] == 0


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_restart(server: ServerUnderTest, body: bytes) -> None:
    """A restart needs no body, and returns the new kernel's generation."""
    create(server, id="a")
    answer = server.http.post("/api/sessions/a/restart", content=body)
    assert answer.json() == {"success": True, "id": "a", "kernel_generation": 2}
    assert server.sessions.calls[-1] == ("restart", "a", server.url)
