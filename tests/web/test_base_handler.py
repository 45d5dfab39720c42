"""What every endpoint does: JSON both ways, errors in one shape, ids, methods, headers."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_response_models import ErrorAnswer
from tests.waiting import wait_until
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


def test_foreign_exception(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged with the request id, and answered without its text."""
    with caplog.at_level(logging.ERROR):
        answer = server.http.get("/api/sessions/bug?q=hush", headers={"X-Request-Id": "trace-7"})
    shown = check_error(answer, 500, "INTERNAL_ERROR")
    assert "trace-7" in shown["message"]
    assert "nobody must see" not in answer.text
    assert "Traceback" not in answer.text
    [record] = [r for r in caplog.records if r.name == "era_kernels.web.base_handler"]
    assert (record.request_id, record.path) == ("trace-7", "/api/sessions/bug")  # type: ignore[attr-defined]
    assert record.exc_info


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


def test_unhealthy(server: ServerUnderTest) -> None:
    """A part that is down is named, with 503 and a time to come again."""
    server.server_info.failed_parts = {"store": "The disk is gone."}
    try:
        answer = server.http.get("/health")
    finally:
        server.server_info.failed_parts = {}
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["status"] == "unhealthy"
    assert answer.json()["problems"] == {"store": "The disk is gone."}


def test_log_of_answers(caplog: pytest.LogCaptureFixture) -> None:
    """One line per answer, with no query and nothing of the body."""
    with caplog.at_level(logging.INFO, "era_kernels.web.routes"), run_server() as server:
        server.http.post("/api/execute?token=hush", json={"language": "li", "code": "out hush"})
    records = [r for r in caplog.records if r.name == "era_kernels.web.routes"]
    # Another module's server may still be at its last line.
    [record] = [r for r in records if r.path == "/api/execute"]  # type: ignore[attr-defined]
    assert record.status == 200  # type: ignore[attr-defined]
    assert "hush" not in str(vars(record))


def test_no_body_is_kept(
    server: ServerUnderTest, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler whose answer is out holds no body, though Tornado's circles keep it for a while."""
    handlers: list[BaseHandler] = []

    def note(handler: BaseHandler, context: HandlerContext) -> None:
        handlers.append(handler)
        initialize(handler, context)

    initialize = BaseHandler.initialize
    monkeypatch.setattr(BaseHandler, "initialize", note)
    for value in ("1", "}"):  # a run, and an error
        server.http.post(
            f"{session}/run", content=b'{"code":"1","update_data":%b}' % value.encode()
        )
    assert len(handlers) == 2
    assert wait_until(lambda: not any(handler.body for handler in handlers))
