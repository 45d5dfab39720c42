"""What every endpoint does: JSON both ways, errors in one shape, ids, methods, headers."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from era_kernels.web.responses import ErrorAnswer
from tests.web.fakes import LANGUAGE
from tests.web.serving import MAX_BODY, ServerUnderTest, run_server

JSON = "application/json; charset=utf-8"


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of errors."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == JSON
    shown: dict[str, Any] = answer.json()
    TypeAdapter(ErrorAnswer).validate_python(shown)
    assert shown["code"] == code, shown
    assert shown["message"].endswith(".")
    return shown


def test_json_out(server: ServerUnderTest, session: str) -> None:
    """Answers are compact UTF-8 JSON objects."""
    answer = server.http.patch(session, json={"metadata": {"name": "é"}})
    assert answer.headers["Content-Type"] == JSON
    assert '"metadata":{"name":"é"}'.encode() in answer.content


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "text/plain", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=x", "multipart/form-data", "nonsense"],
)  # fmt: skip
def test_json_in_whatever_the_type(server: ServerUnderTest, content_type: str | None) -> None:
    """A body is JSON whatever its Content-Type says; forms are never parsed."""
    headers = {"Content-Type": content_type} if content_type else {}
    body = json.dumps({"language": LANGUAGE, "data": {"a": "b&c=d%20"}})
    answer = server.http.post("/api/sessions", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["data"] == {"a": "b&c=d%20"}


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_compressed_body(server: ServerUnderTest, encoding: str) -> None:
    """A body that claims an encoding is refused: no decompression bombs."""
    headers = {"Content-Encoding": encoding}
    answer = server.http.post("/api/sessions", content=b"\x1f\x8b\x08", headers=headers)
    check_error(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_empty_body(server: ServerUnderTest) -> None:
    """An empty body is an empty object, so the error names what is missing."""
    answer = server.http.post("/api/sessions", content=b"")
    assert "language" in check_error(answer, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    "body", [b"{", b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":' + b"[" * 100, b"\xff"]
)
def test_malformed_json(server: ServerUnderTest, session: str, body: bytes) -> None:
    """Malformed JSON is INVALID_JSON on every path that takes a body."""
    for method, path in [
        ("POST", "/api/execute"),
        ("POST", "/api/sessions"),
        ("PATCH", session),
        ("POST", f"{session}/run"),
        ("POST", f"{session}/stream"),
    ]:
        check_error(server.http.request(method, path, content=body), 400, "INVALID_JSON")


def test_big_integers_survive(server: ServerUnderTest, session: str) -> None:
    """Integers of hundreds of digits come back as they were."""
    number = 10**400 + 1
    answer = server.http.patch(session, content=json.dumps({"data": {"n": number}}))
    assert answer.json()["metadata"]["data"]["n"] == number


def test_big_bodies(server: ServerUnderTest, session: str) -> None:
    """A body beyond a megabyte is taken, and its answer comes whole."""
    data = {"text": "é" * 1_000_000, "list": list(range(100_000))}
    answer = server.http.patch(session, content=json.dumps({"data": data}, ensure_ascii=False))
    assert answer.json()["metadata"]["data"] == data


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [MAX_BODY + 1, 3 * MAX_BODY])
def test_too_large(server: ServerUnderTest, session: str, size: int, chunked: bool) -> None:
    """A body over the bound is 413 in JSON, and the connection can be used again."""
    body = b'{"code":"' + b"x" * (size - 11) + b'"}'
    content = iter([body[:1000], body[1000:]]) if chunked else body
    answer = server.http.post(f"{session}/run", content=content)
    check_error(answer, 413, "TOO_LARGE")
    assert server.http.get(session).status_code == 200


def test_largest(server: ServerUnderTest, session: str) -> None:
    """A body of exactly the bound is taken."""
    body = b'{"code":"' + b"x" * (MAX_BODY - 11) + b'"}'
    assert len(body) == MAX_BODY
    assert server.http.post(f"{session}/run", content=body).status_code == 200


@pytest.mark.parametrize(
    "bad", ["..", ".", "%2e%2e", "a%2Fb", "%00", "a%00", "%C3%A9", "%ff", "a%20b", "-a", "a%0a",
            "x" * 129, "%252F", "a;b", "a:b", "~a"],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/api/sessions/{}", "/api/sessions/{}/run", "/api/sessions/s1/executions/{}"]
)
def test_bad_ids_in_paths(server: ServerUnderTest, session: str, path: str, bad: str) -> None:
    """An id that is none is INVALID_ID, decoded once, wherever it stands."""
    method = "POST" if path.endswith("run") else "GET"
    raw = f"{method} {path.format(bad)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    reply = server.send_and_parse(raw.encode("latin1"))
    assert (reply.status, reply.json()["code"]) == (400, "INVALID_ID")


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/sessions/",
        "/x/y",
        "/api/sessions/a/b",
        "/api/sessions//run",
        "/API/sessions",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PUT"])
def test_unknown_path(server: ServerUnderTest, path: str, method: str) -> None:
    """Unknown paths are a JSON 404, whatever the method."""
    check_error(server.http.request(method, path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/sessions", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("POST", "/api/sessions/s1", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("GET", "/api/sessions/s1/run", "POST, OPTIONS"),
        ("HEAD", "/api/execute", "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
        ("TRACE", "/api/sessions", "GET, HEAD, POST, DELETE, OPTIONS"),
    ],
)
def test_wrong_method(server: ServerUnderTest, method: str, path: str, allow: str) -> None:
    """A wrong method is a JSON 405 that lists the right ones."""
    answer = server.http.request(method, path, content=b"{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, allow)
    if method != "HEAD":
        check_error(answer, 405, "METHOD_NOT_ALLOWED")


def test_unknown_method_on_unknown_path(server: ServerUnderTest) -> None:
    """Where nothing is, no method is wrong."""
    check_error(server.http.request("BREW", "/nothing"), 404, "NOT_FOUND")


def test_options(server: ServerUnderTest) -> None:
    """OPTIONS lists the methods and has no body."""
    answer = server.http.options("/api/sessions")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Allow"] == "GET, HEAD, POST, DELETE, OPTIONS"


@pytest.mark.parametrize("path", ["/api/sessions", "/api/sessions/s1", "/health", "/openapi.json"])
def test_head(server: ServerUnderTest, session: str, path: str) -> None:
    """HEAD gives the headers of GET and no body."""
    head, get = server.http.head(path), server.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("path", ["/health", "/nothing", "/api/sessions/..%2f", "/api/sessions/s1"])
def test_request_id(server: ServerUnderTest, path: str) -> None:
    """Every answer carries a request id: the caller's when it is sane, else a new one."""
    made = server.http.get(path).headers["X-Request-Id"]
    assert re.fullmatch(r"req-[0-9a-f]{16}", made)
    own = server.http.get(path, headers={"X-Request-Id": "trace-1/a"})
    assert own.headers["X-Request-Id"] == "trace-1/a"


@pytest.mark.parametrize("bad", ["a b", "x" * 129, '"><script>', "é".encode()])
def test_insane_request_id(server: ServerUnderTest, bad: str | bytes) -> None:
    """A request id that could confuse a log or a page is replaced."""
    answer = server.http.get("/health", headers={"X-Request-Id": bad})
    assert re.fullmatch(r"req-[0-9a-f]{16}", answer.headers["X-Request-Id"])


def test_neutral_headers(server: ServerUnderTest) -> None:
    """Answers do not name the server's software, and are not sniffed or kept."""
    for path in ("/health", "/nothing"):
        headers = server.http.get(path).headers
        assert headers["Server"] == "era-kernels"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Etag" not in headers


def test_foreign_exception(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged with the request id, and answered without its text."""
    with caplog.at_level(logging.ERROR):
        answer = server.http.get("/api/sessions/bug?q=hush", headers={"X-Request-Id": "trace-7"})
    shown = check_error(answer, 500, "INTERNAL_ERROR")
    assert "trace-7" in shown["message"]
    assert "nobody must see" not in answer.text
    assert "Traceback" not in answer.text
    [record] = [r for r in caplog.records if r.name == "era_kernels.web.base"]
    assert (record.request_id, record.path) == ("trace-7", "/api/sessions/bug")  # type: ignore[attr-defined]
    assert record.exc_info


def test_domain_error(server: ServerUnderTest) -> None:
    """A domain error carries its code, its sentence and the id it is about."""
    shown = check_error(server.http.get("/api/sessions/gone"), 404, "SESSION_NOT_FOUND")
    assert shown["id"] == "gone"


def test_retry_after(server: ServerUnderTest, session: str) -> None:
    """429 and 503 say when to come again."""
    server.sessions.is_full = True
    answer = server.http.post(f"{session}/run", json={"code": "out x"})
    server.sessions.is_full = False
    check_error(answer, 429, "QUEUE_FULL")
    assert int(answer.headers["Retry-After"]) > 0
    refused = server.http.post(f"{session}/run", json={"code": "refuse"})
    check_error(refused, 503, "KERNEL_START_FAILED")
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["X-Execution-Id"].startswith("exec-")


def test_log_of_answers(caplog: pytest.LogCaptureFixture) -> None:
    """One line per answer, with no query and nothing of the body."""
    with caplog.at_level(logging.INFO, "era_kernels.web.routes"), run_server() as server:
        server.http.post("/api/execute?token=hush", json={"language": "li", "code": "out hush"})
    records = [r for r in caplog.records if r.name == "era_kernels.web.routes"]
    # Another module's server may still be at its last line.
    [record] = [r for r in records if r.path == "/api/execute"]  # type: ignore[attr-defined]
    assert record.status == 200  # type: ignore[attr-defined]
    assert "hush" not in str(vars(record))
