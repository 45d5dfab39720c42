"""Rules for every endpoint: JSON both ways, errors, ids, times, methods, headers, bad input."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import (
    DURATION,
    JSON_TYPE,
    TIME,
    check,
    check_error,
    check_error_object,
    send_and_parse,
    send_raw,
)
from tests.server_process import Server
from tests.web.serving import parse_response, read_all

TAKING_BODIES = [
    ("POST", "/api/execute"),
    ("POST", "/api/sessions"),
    ("PATCH", "{session}"),
    ("POST", "{session}/run"),
    ("POST", "{session}/stream"),
    ("PUT", "/api/storage/kv/every/k"),
]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def port(server: Server) -> int:
    return int(server.base_url.rpartition(":")[2])


@pytest.fixture(scope="module")
def execution(shared: SessionClient) -> str:
    """The path of an execution that has ended."""
    answer = shared.run("print('a')")
    return f"{shared.path}/executions/{answer['execution_id']}"


@pytest.fixture(autouse=True)
def alive(client: Client) -> Iterator[None]:
    """Whatever a test sends, the server answers afterwards."""
    yield
    assert client.http.get("/health").status_code == 200


# ---------------------------------------------------------------- JSON out


def test_json_out(client: Client, shared: SessionClient, execution: str) -> None:
    """Every JSON answer is a compact object in UTF-8 that ends in a newline."""
    client.http.patch(shared.path, json={"metadata": {"name": "né ☃"}})
    for path in (
        "/health", "/api/languages", "/api/limits", "/api/sessions", shared.path, execution,
        f"{shared.path}/executions", "/nothing", "/openapi.json", "/api/storage/kv/every",
        "/api/storage/kv/every/none", "/api/storage", "/api/resources/list", "/api/resources/stats",
    ):  # fmt: skip
        answer = client.http.get(path)
        assert answer.headers["Content-Type"] == JSON_TYPE
        value = answer.json()
        assert isinstance(value, dict)
        compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert answer.content == compact.encode() + b"\n", path
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        assert client.http.head(path).headers["Content-Length"] == answer.headers["Content-Length"]


def test_grep_for_the_id(client: Client) -> None:
    """Shell clients grep a created session for `"id":"…"` and for the text `error`."""
    answer = client.http.post("/api/sessions", json={"language": "python"})
    assert answer.status_code == 201
    assert re.search(r'"id":"([^"]*)"', answer.text)
    assert "error" not in answer.text
    client.http.delete(f"/api/sessions/{answer.json()['id']}")


# ---------------------------------------------------------------- JSON in


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "text/plain", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=x", "multipart/form-data", "application/octet-stream", "é"],
)  # fmt: skip
def test_any_content_type(client: Client, shared: SessionClient, kind: str | None) -> None:
    """JSON is parsed whatever the Content-Type says, and forms are never parsed."""
    headers = {"Content-Type": kind.encode()} if kind else {}
    body = '{"metadata":{"a":"x=1&y=%20+;--x"}}'
    answer = client.http.patch(shared.path, content=body, headers=headers)
    assert answer.json()["metadata"]["metadata"] == {"a": "x=1&y=%20+;--x"}


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}"])
def test_empty_body(client: Client, shared: SessionClient, body: bytes) -> None:
    """An empty body is an empty object: a missing field is reported, an optional one is fine."""
    for path, field in [
        ("/api/execute", "language"),
        ("/api/sessions", "language"),
        (f"{shared.path}/run", "code"),
        (f"{shared.path}/stream", "code"),
    ]:
        shown = check_error(client.http.post(path, content=body), 400, "INVALID_REQUEST")
        assert field in shown["message"]
    assert client.http.patch(shared.path, content=body).status_code == 200


def test_unknown_fields(client: Client, shared: SessionClient) -> None:
    """Unknown fields are ignored."""
    answer = shared.run("print(1)", colour="red", _x=None, __proto__={"a": 1})
    check(answer, stdout="1\n")
    answer = client.http.get("/api/sessions?colour=red&limit=0")
    assert answer.json()["sessions"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"}", b"{'code':1}", b'{"code":"x",}', b'{"code":"x"} {}', b"code=x", b"\x00",
        b'{"code":"\xff"}', b'{"code":"a\nb"}', b'{"code":NaN}', b'{"x":Infinity}',
        b'{"x":-Infinity}', b'{"x":1e999}', b'{"code":"\\ud800"}', b'{"\\udfff":1}',
        b'{"x":"\\ude00\\ud83d"}', "﻿{".encode(),
        '{"code":"x"}'.encode("utf-16"), b'{"x":' + b"9" * 10_000 + b"}",
    ],
    ids=range(19),
)  # fmt: skip
def test_malformed_json(client: Client, shared: SessionClient, body: bytes) -> None:
    """Malformed JSON, NaN, Infinity and lone surrogates are INVALID_JSON everywhere."""
    for method, path in TAKING_BODIES:
        path = path.format(session=shared.path)
        check_error(client.http.request(method, path, content=body), 400, "INVALID_JSON")


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":' + b"[" * 100_000, b'{"x":' + b'{"a":' * 100_000,
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
    ids=["open arrays", "open objects", "closed"],
)  # fmt: skip
def test_deep_json(client: Client, shared: SessionClient, body: bytes) -> None:
    """More than 200 levels are too large everywhere, whether they end or not."""
    for method, path in TAKING_BODIES:
        path = path.format(session=shared.path)
        check_error(client.http.request(method, path, content=body), 413, "TOO_LARGE")


@pytest.mark.parametrize("body", [b"[]", b'"code"', b"null", b"1", b"true"])
def test_not_an_object(client: Client, shared: SessionClient, body: bytes) -> None:
    """JSON that is no object is a wrong request."""
    for method, path in TAKING_BODIES:
        path = path.format(session=shared.path)
        check_error(client.http.request(method, path, content=body), 400, "INVALID_REQUEST")


EXECUTE, CREATE, RUN = "/api/execute", "/api/sessions", "{session}/run"
PYTHON: dict[str, Any] = {"language": "python", "code": ""}
OBJECTS: list[Any] = ["x", 1, True, []]
INVALID_REQUESTS = [
    ("POST", EXECUTE, {"language": 1, "code": ""}, "language"),
    ("POST", EXECUTE, {"language": None, "code": ""}, "language"),
    ("POST", EXECUTE, {"language": ["python"], "code": ""}, "language"),
    *[("POST", EXECUTE, {**PYTHON, "code": bad}, "code") for bad in (1, None, [], {}, False)],
    *[
        ("POST", path, {**PYTHON, name: bad}, name)
        for path in (EXECUTE, RUN, "{session}/stream")
        for name in ("timeout", "timeout_ms")
        for bad in ("1", True, [1], {}, -1, -0.001)
    ],
    *[
        ("POST", path, {**PYTHON, "env": bad}, "env")
        for path in (EXECUTE, RUN)
        for bad in (*OBJECTS, {"A": None}, {"A": {}}, {"A": ["x"]}, {"": "x"}, {"A=B": "x"},
                    {"A\0": "x"}, {"A": "x\0"})
    ],
    *[("POST", RUN, {"code": bad}, "code") for bad in (1, ["x"], {}, True)],
    *[("POST", RUN, {"code": "", "update_data": bad}, "update_data") for bad in OBJECTS],
    *[("POST", CREATE, {"language": bad}, "language") for bad in (None, 1, [], True)],
    *[("POST", CREATE, {**PYTHON, "data": bad}, "data") for bad in OBJECTS],
    *[("POST", CREATE, {**PYTHON, "metadata": bad}, "metadata") for bad in OBJECTS],
    *[("POST", CREATE, {**PYTHON, "persistent": bad}, "persistent") for bad in (1, "true", [])],
    *[("POST", CREATE, {**PYTHON, "session_id": bad}, "session_id") for bad in (1, [], True)],
    *[
        ("POST", CREATE, {**PYTHON, "default_timeout": bad}, "default_timeout")
        for bad in ("1", True, 0, -1, 3601, 1e300, 1e308, 10**400)
    ],
    *[
        (method, path, {**PYTHON, name: bad}, name)
        for method, path in (("POST", CREATE), ("PATCH", "{session}"))
        for name in ("allowInternetAccess", "allowPublicAccess")
        for bad in (0, "no", [])
    ],
    *[
        ("PATCH", "{session}", {"default_timeout": bad}, "default_timeout")
        for bad in ("1", False, 0, -1, 3601)
    ],
    *[("PATCH", "{session}", {"data": bad}, "data") for bad in (*OBJECTS, None)],
    *[("PATCH", "{session}", {"metadata": bad}, "metadata") for bad in (*OBJECTS, None)],
]  # fmt: skip


@pytest.mark.parametrize("endpoint", sorted({row[:2] for row in INVALID_REQUESTS}), ids=" ".join)
def test_wrong_type(client: Client, shared: SessionClient, endpoint: tuple[str, str]) -> None:
    """A wrong type is INVALID_REQUEST that names the field; no value is bent to fit."""
    method, path = endpoint
    for *_, body, field in (row for row in INVALID_REQUESTS if row[:2] == endpoint):
        answer = client.http.request(method, path.format(session=shared.path), json=body)
        assert field in check_error(answer, 400, "INVALID_REQUEST")["message"], body


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/sessions?limit=x", "limit"),
        ("/api/sessions?limit=-1", "limit"),
        ("/api/sessions?offset=1.5", "offset"),
        ("/api/sessions?offset=%00", "offset"),
        ("/api/sessions?offset=%FF", "offset"),
        (f"/api/sessions?limit={'9' * 5000}", "limit"),
        ("{execution}?wait=inf", "wait"),
        ("{session}/executions?limit=x", "limit"),
        ("{session}/executions?offset=-1", "offset"),
        ("{execution}?wait=soon", "wait"),
        ("{execution}?wait=nan", "wait"),
        ("{execution}?wait=-1", "wait"),
        ("{execution}/stream?last_event_id=x", "last_event_id"),
        ("{execution}/stream?last_event_id=-1", "last_event_id"),
    ],
)
def test_wrong_query(
    client: Client, shared: SessionClient, execution: str, path: str, field: str
) -> None:
    """A query that is no number where one is wanted is INVALID_REQUEST that names it."""
    answer = client.http.get(path.format(session=shared.path, execution=execution))
    assert field in check_error(answer, 400, "INVALID_REQUEST")["message"]


EXACT: dict[str, Any] = {
    "big": 10**400 + 1,
    "negative": -(2**64) - 1,
    "beyond doubles": 2**53 + 1,
    "fraction": 0.1,
    "text": "né ☃ 😀 \u2028 \x00 \\ud800 </script>",
    "\x00key": [[], {}, None, True, ""],
}


@pytest.mark.parametrize("name", ["data", "metadata"])
def test_values_survive(client: Client, session: SessionClient, name: str) -> None:
    """Integers of any size and all of Unicode come back exactly as they were given."""
    changed = client.http.patch(session.path, json={name: EXACT})
    assert changed.json()["metadata"][name] == EXACT
    assert session.get()[name] == EXACT
    session.run("pass")
    assert session.get()[name] == EXACT


def test_deep_values_survive(client: Client, session: SessionClient) -> None:
    """What is nested a hundred levels deep comes back."""
    body = '{"data":{"a":' + "[" * 100 + "]" * 100 + "}}"
    assert client.http.patch(session.path, content=body).status_code == 200
    assert client.http.get(session.path).text.count("[" * 100 + "]" * 100) == 1


def test_last_duplicate_wins(client: Client, shared: SessionClient) -> None:
    """Of a field that is given twice the last counts."""
    answer = client.http.post(f"{shared.path}/run", content='{"code":"print(1)","code":"print(2)"}')
    check(answer.json(), stdout="2\n")


# ---------------------------------------------------------------- sizes


def test_bodies_over_a_mebibyte(shared: SessionClient) -> None:
    """A big body is taken; what it holds arrives whole."""
    answer = shared.run(f"print(len('{'é' * 2_000_000}'))")
    check(answer, stdout="2000000\n", exit_code=0)


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_giant_body(client: Client, shared: SessionClient, chunked: bool) -> None:
    """A body over `max_json_body` is 413, declared or not."""
    pieces = [b'{"code":"', *[b"x" * MIB] * 32, b'"}']
    content = iter(pieces) if chunked else b"".join(pieces)
    check_error(client.http.post(f"{shared.path}/run", content=content), 413, "TOO_LARGE")


def test_giant_declaration(port: int) -> None:
    """A body that is only declared too large is refused without waiting for it."""
    head = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    answer = send_and_parse(port, head % 10**15)
    assert answer.status == 413
    check_error_object(answer.json(), "TOO_LARGE")


def test_slow_body(client: Client, port: int) -> None:
    """A body that comes slowly holds nobody else up, and is answered when it is there."""
    body = b'{"language":"python","code":"print(1)"}'
    head = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(len(body)):
            sock.sendall(body[at : at + 1])
            if at % 10 == 0:
                assert client.http.get("/health").status_code == 200
                time.sleep(0.05)
        answer = parse_response(read_all(sock, 20))
    assert (answer.status, answer.json()["stdout"]) == (200, "1\n")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/api", 404, "NOT_FOUND"),
        ("GET", "/api/", 404, "NOT_FOUND"),
        ("POST", "/api/nothing", 404, "NOT_FOUND"),
        ("GET", "/api/sessions/", 404, "NOT_FOUND"),
        ("GET", "/API/SESSIONS", 404, "NOT_FOUND"),
        ("GET", "//api/sessions", 404, "NOT_FOUND"),
        ("BREW", "/coffee", 404, "NOT_FOUND"),
        ("GET", "/api/sessions/gone", 404, "SESSION_NOT_FOUND"),
        ("PATCH", "/api/sessions/gone", 404, "SESSION_NOT_FOUND"),
        ("DELETE", "/api/sessions/gone", 404, "SESSION_NOT_FOUND"),
        ("POST", "/api/sessions/gone/run", 404, "SESSION_NOT_FOUND"),
        ("POST", "/api/sessions/gone/stream", 404, "SESSION_NOT_FOUND"),
        ("POST", "/api/sessions/gone/restart", 404, "SESSION_NOT_FOUND"),
        ("GET", "/api/sessions/gone/executions", 404, "SESSION_NOT_FOUND"),
        ("GET", "/api/sessions/gone/executions/e", 404, "SESSION_NOT_FOUND"),
        ("GET", "{session}/executions/gone", 404, "EXECUTION_NOT_FOUND"),
        ("GET", "{session}/executions/gone/stream", 404, "EXECUTION_NOT_FOUND"),
        ("GET", "{session}/executions/gone/stdout", 404, "EXECUTION_NOT_FOUND"),
        ("GET", "{session}/executions/gone/stderr", 404, "EXECUTION_NOT_FOUND"),
        ("PUT", "/api/sessions", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/execute", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/health", 405, "METHOD_NOT_ALLOWED"),
        ("BREW", "{session}", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "{session}/files/f", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_errors(
    client: Client, shared: SessionClient, method: str, path: str, status: int, code: str
) -> None:
    """Every error is JSON with a phrase, a sentence and a stable code; never a traceback."""
    body = {"code": "x"} if method in ("POST", "PATCH") else None
    answer = client.http.request(method, path.format(session=shared.path), json=body)
    error = check_error(answer, status, code)
    assert code not in ("SESSION_NOT_FOUND", "EXECUTION_NOT_FOUND") or error["id"] in path


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/execute", "POST, OPTIONS"),
        ("/api/sessions", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("{session}", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("{session}/run", "POST, OPTIONS"),
        ("{session}/stream", "POST, OPTIONS"),
        ("{session}/restart", "POST, OPTIONS"),
        ("{session}/executions", "GET, HEAD, OPTIONS"),
        ("{execution}", "GET, HEAD, OPTIONS"),
        ("{execution}/stream", "GET, HEAD, OPTIONS"),
        ("{execution}/stdout", "GET, HEAD, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/api/limits", "GET, HEAD, OPTIONS"),
    ],
)
def test_methods(
    client: Client, shared: SessionClient, execution: str, path: str, allow: str
) -> None:
    """A wrong method is 405 with `Allow`; OPTIONS lists the same; HEAD goes where GET goes."""
    path = path.format(session=shared.path, execution=execution)
    wrong = client.http.put(path, content=b"{}")
    check_error(wrong, 405, "METHOD_NOT_ALLOWED")
    options = client.http.options(path)
    assert (options.status_code, options.content) == (204, b"")
    assert wrong.headers["Allow"] == options.headers["Allow"] == allow
    if "HEAD" in allow:
        head = client.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        if path.endswith("/stream"):
            assert head.headers["Content-Type"].startswith("text/event-stream")


# ---------------------------------------------------------------- times, ids, durations


def test_times(session: SessionClient) -> None:
    """Times are UTC with milliseconds and Z; `last_run_at` is empty before the first run."""
    before = session.get()
    assert TIME.fullmatch(before["created_at"])
    assert before["last_run_at"] == ""
    session.run("open('f', 'w').close()")
    after = session.get()
    assert TIME.fullmatch(after["last_run_at"])
    assert after["last_run_at"] > after["created_at"] == before["created_at"]
    assert TIME.fullmatch(after["files"][0]["modified_at"])


GOOD_IDS = ["a", "0", "A.b_c-d", "x" * 128, "1..2", "sess-1"]
BAD_IDS = ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "a\0", "x" * 129, "a%2f", "a?b",
           "a\u2028"]  # fmt: skip


@pytest.mark.parametrize("name", ["session_id", "id"])
@pytest.mark.parametrize("good", GOOD_IDS)
def test_good_ids(client: Client, name: str, good: str) -> None:
    """Letters, digits, dots, underscores and hyphens make an id, shown under both names."""
    answer = client.http.post("/api/sessions", json={"language": "python", name: good})
    assert answer.status_code == 201, answer.text
    check(answer.json(), id=good, session_id=good)
    assert client.http.delete(f"/api/sessions/{good}").json()["id"] == good


@pytest.mark.parametrize("name", ["session_id", "id"])
@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_ids(client: Client, name: str, bad: str) -> None:
    """Anything else is INVALID_ID."""
    answer = client.http.post("/api/sessions", json={"language": "python", name: bad})
    check_error(answer, 400, "INVALID_ID")


@pytest.mark.parametrize(
    "bad", [".", "..", "%2e%2e", "..%2f..", "a%2Fb", "%2f", "%00", "a%0d%0aX:y", "%C3%A9", "%ff",
            "%c0%ae", "a%20b", "-a", "x" * 129, "%252e", "%zz", "%", "a;b", "a+b", "~root"],
)  # fmt: skip
def test_bad_ids_in_paths(port: int, shared: SessionClient, bad: str) -> None:
    """A path is decoded once and never normalised: what is no id is INVALID_ID."""
    for method, path in [
        ("GET", f"/api/sessions/{bad}"),
        ("POST", f"/api/sessions/{bad}/run"),
        ("GET", f"{shared.path}/executions/{bad}"),
        ("GET", f"{shared.path}/executions/{bad}/stdout"),
    ]:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = send_and_parse(port, head.encode())
        assert answer.status == 400, (path, answer)
        check_error_object(answer.json(), "INVALID_ID")


@pytest.mark.parametrize(
    "path",
    ["/api/../health", "/api/sessions/../../health", "/./health", "/api%2fsessions", "/%68ealth%00",
     "/health/", "/health;x", "http://localhost/health", "*", "/api/sessions\\x"],
)  # fmt: skip
def test_paths_are_not_normalised(port: int, path: str) -> None:
    """A path means what is written: no dots, double slashes or tails are removed."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = send_and_parse(port, head.encode())
    assert answer.status in (400, 404)
    assert answer.json()["code"] in ("NOT_FOUND", "INVALID_REQUEST")


def test_generated_ids(client: Client) -> None:
    """Generated ids are `sess-` and hex digits, and cannot be guessed."""
    ids = [client.session("python").id for _ in range(5)]
    assert len(set(ids)) == 5
    for made in ids:
        assert re.fullmatch(r"sess-[0-9a-f]{16,}", made)
        client.http.delete(f"/api/sessions/{made}")


def test_durations(shared: SessionClient) -> None:
    """An answer says how long the run took as a number and as text."""
    answer = shared.run("import time; time.sleep(1.1)")
    assert 1000 < answer["execution_time_ms"] < 20_000
    assert re.fullmatch(r"\d+\.\d\ds", answer["duration"])
    short = shared.run("pass")
    assert DURATION.fullmatch(short["duration"])
    assert short["execution_time_ms"] > 0


def test_clock_of_a_run(session: SessionClient) -> None:
    """The clock of a run starts when a ready kernel gets it; the start is counted apart."""
    first, second = session.run("pass"), session.run("pass")
    assert first["start_ms"] > 0
    assert first["queued_ms"] >= 0
    assert second["start_ms"] < first["start_ms"]


# ---------------------------------------------------------------- timeouts

SHORT_SLEEP_CODE = "import time; time.sleep(0.35)"


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        ({}, True),
        ({"timeout": 0.15}, False),
        ({"timeout_ms": 150}, False),
        ({"timeout_ms": 150.5, "timeout": 60}, False),
        ({"timeout_ms": 60_000, "timeout": 0.15}, True),
        ({"timeout_ms": 0, "timeout": 0.15}, True),
        ({"timeout_ms": None, "timeout": 0.15}, False),
        ({"timeout": 0}, True),
        ({"timeout": None, "timeout_ms": None}, True),
        ({"timeout": 3600, "timeout_ms": None}, True),
    ],
)
def test_timeouts(shared: SessionClient, body: dict[str, Any], ends: bool) -> None:
    """Both units are taken and milliseconds win; absent, null and 0 mean the default."""
    check(shared.run(SHORT_SLEEP_CODE, **body), exit_code=0 if ends else 124)


def test_default_timeout(client: Client) -> None:
    """Where no timeout is asked for, the session's default counts."""
    session = client.session("python", default_timeout=0.2)
    for body in ({}, {"timeout": 0}, {"timeout_ms": None}, {"timeout_ms": 0}):
        check(session.run(SHORT_SLEEP_CODE, **body), exit_code=124)
    check(session.run(SHORT_SLEEP_CODE, timeout=10), exit_code=0)
    session.delete()


@pytest.mark.parametrize("path", ["/api/execute", "{session}/run", "{session}/stream"])
@pytest.mark.parametrize(
    "body",
    [{"timeout": 3600.5}, {"timeout_ms": 3_600_001}, {"timeout": 1e300}, {"timeout": 10**400}],
)
def test_timeout_too_long(
    client: Client, shared: SessionClient, path: str, body: dict[str, Any]
) -> None:
    """A timeout above `max_timeout` is refused, not cut; the field is named."""
    request = {"language": "python", "code": "", **body}
    answer = client.http.post(path.format(session=shared.path), json=request)
    [detail] = check_error(answer, 400, "INVALID_REQUEST")["details"]
    assert detail["field"] == "timeout"


# ---------------------------------------------------------------- headers


def test_request_id(client: Client, shared: SessionClient, execution: str) -> None:
    """Every answer carries a request id: the caller's when it is sane, else a new one."""
    for method, path in [
        ("GET", "/health"), ("GET", "/nothing"), ("PUT", "/health"), ("OPTIONS", "/health"),
        ("GET", shared.path), ("GET", f"{execution}/stdout"), ("GET", f"{execution}/stream"),
        ("POST", f"{shared.path}/run"), ("GET", "/docs"),
    ]:  # fmt: skip
        made = client.http.request(method, path).headers["X-Request-Id"]
        assert re.fullmatch(r"req-[0-9a-f]+", made)
        given = {"X-Request-Id": "trace.1-a"}
        assert client.http.request(method, path, headers=given).headers["X-Request-Id"] == (
            "trace.1-a"
        )


@pytest.mark.parametrize(
    "bad", ["a b", "x" * 500, "a%0d%0aSet-Cookie:b", '"><script>', "é", "{}", ""]
)
def test_insane_request_id(client: Client, bad: str) -> None:
    """A request id that could confuse a log or a page is replaced."""
    answer = client.http.get("/health", headers={"X-Request-Id": bad.encode()})
    assert re.fullmatch(r"req-[0-9a-f]+", answer.headers["X-Request-Id"])


def test_execution_id(client: Client, shared: SessionClient) -> None:
    """Run and stream carry the execution's id, also when the run times out."""
    run = client.http.post(f"{shared.path}/run", json={"code": SHORT_SLEEP_CODE, "timeout": 0.2})
    assert run.status_code == 408
    assert run.headers["X-Execution-Id"] == run.json()["execution_id"]
    stream = client.http.post(f"{shared.path}/stream", json={"code": "1"})
    assert stream.headers["X-Execution-Id"] in stream.text


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("method", [b"BREW", b"TRACE", b"SEND_ERROR"])
def test_unknown_methods_end_the_connection(port: int, method: bytes) -> None:
    """Where a connection ends with an answer the answer says so, so that nobody uses it again."""
    answer = send_and_parse(port, method + b" /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (405, "close")


def test_requests_on_one_connection(port: int) -> None:
    """An error does not cost the connection: what comes after it is answered, in order."""
    requests = [
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: 1\r\n\r\n{",
        POST + CHUNKED + b"\r\n1\r\n{\r\n0\r\n\r\n",
        b"PUT /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        GET + b"Connection: close\r\n\r\n",
    ]
    raw = send_raw(port, b"".join(requests))
    assert re.findall(rb"HTTP/1\.1 (\d+)", raw) == [b"404", b"400", b"400", b"405", b"200"]


def test_answers_are_not_sniffed_or_kept(client: Client, execution: str) -> None:
    """No answer is taken by a browser for something else, nor kept for somebody else."""
    for path in ("/health", "/nothing", "/api/sessions", f"{execution}/stdout"):
        headers: httpx.Headers = client.http.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "era-kernels"
        assert "Etag" not in headers
