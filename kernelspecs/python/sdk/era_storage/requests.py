"""Makes one request to the server and turns what fails into a StorageError."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from . import connections
from .errors import StorageError

JSON = "application/json"
BYTES = "application/octet-stream"
_MAX_PAGE = 1000  # entries that the server lists at once
_MAX_ERROR = 300  # characters of an answer that is no JSON


class _ClosedBefore(ConnectionError):
    """The server closed the connection before anything of an answer came."""


class Call(NamedTuple):
    """One call: `what` names it for people, `path` lies below `/api/storage`.

    `is_repeatable` is true when a second time does no harm.
    """

    what: str
    method: str
    path: str
    body: bytes | IO[bytes] | None = None
    headers: Mapping[str, str] = {}
    is_repeatable: bool = True


class Answer(NamedTuple):
    """The status and the whole body of an answer."""

    status: int
    body: bytes


def path(kind: str, namespace: str, query: Mapping[str, object]) -> str:
    """Returns the path of a namespace with a query.

    A key is in the query: programs on the way change `.` and `..` in a path.
    """
    text = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
    return f"{kind}/{quote(namespace, safe='')}{'?' if text else ''}{text}"


def key_path(kind: str, namespace: str, key: str) -> str:
    """Returns the path of a key in a namespace. Raises TypeError for a key that is no text."""
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}")
    return path(kind, namespace, {"key": key})


def send_json(
    what: str, method: str, path: str, value: object, *names: str, is_repeatable: bool = True
) -> dict[str, Any]:
    """Sends a value as JSON and returns the answer, which has these names. Raises StorageError."""
    try:
        body = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise StorageError(f"{what} failed: {error}") from error
    call = Call(what, method, path, body, {"Content-Type": JSON}, is_repeatable)
    return load(what, send(call), *names)


def pages(
    what: str, kind: str, namespace: str, name: str, prefix: str, limit: int | None
) -> list[dict[str, Any]]:
    """Returns up to `limit` entries of a list (None: all), whose pages have them under `name`."""
    entries: list[dict[str, Any]] = []
    query: dict[str, object] = {"prefix": prefix} if prefix else {}
    while limit is None or len(entries) < limit:
        query["limit"] = _MAX_PAGE if limit is None else min(limit - len(entries), _MAX_PAGE)
        page = load(what, send(Call(what, "GET", path(kind, namespace, query))), name)
        entries += page[name]
        query["cursor"] = page.get("cursor")
        if not query["cursor"]:
            break
    return entries if limit is None else entries[:limit]


def load(what: str, answer: Answer, *names: str) -> dict[str, Any]:
    """Returns the JSON object of an answer. Raises StorageError if it is none with these names."""
    try:
        value = json.loads(answer.body)
    except ValueError:
        value = None
    if isinstance(value, dict) and all(name in value for name in names):
        return value
    text = answer.body[:_MAX_ERROR].decode("utf-8", "replace").strip()
    raise StorageError(f"{what} failed: the answer is not the server's: {text}")


def send(call: Call, *, missing_code: str | None = None) -> Answer:
    """Returns the answer. Raises StorageError unless the status is 2xx.

    A 404 with `missing_code` is returned, too: the key is not there.
    """
    url = os.environ.get("ERA_STORAGE_URL", "")
    if not url:
        raise StorageError(f"{call.what} failed: ERA_STORAGE_URL is not set")
    try:
        answer = _exchange(url, call)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise StorageError(f"{call.what} failed: {reason}") from error
    if 200 <= answer.status < 300:
        return answer
    problem = _problem(answer)
    if answer.status == 404 and missing_code is not None and problem.get("code") == missing_code:
        return answer
    raise StorageError(_sentence(call.what, problem), problem.get("code"), answer.status)


def _exchange(url: str, call: Call) -> Answer:
    connection, is_used = connections.take(url)
    try:
        return _exchange_once(url, connection, call)
    except _ClosedBefore:
        # The server may close a connection that nobody uses while the next request is on its way.
        if not is_used or not call.is_repeatable:
            raise
    connection, _ = connections.take(url)
    return _exchange_once(url, connection, call)


def _exchange_once(url: str, connection: http.client.HTTPConnection, call: Call) -> Answer:
    try:
        target = f"{connections.base_path(url)}/api/storage/{call.path}"
        headers = {**_authorization(), **call.headers}
        if call.body is None and call.method in ("PUT", "POST"):
            headers["Content-Length"] = "0"
        response = _send(connection, call, target, headers)
        answer = Answer(response.status, response.read())
        if response.will_close:
            connection.close()
    except BaseException:  # an interrupt, too: the rest of the answer may still come
        connection.close()
        raise
    connections.keep(url, connection)
    return answer


def _send(
    connection: http.client.HTTPConnection, call: Call, target: str, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Sends a request and returns the head of its answer. Raises _ClosedBefore."""
    try:
        # The server may have answered before it had the whole body.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(call.method, target, call.body, dict(headers))
        return connection.getresponse()
    except (ConnectionError, http.client.RemoteDisconnected) as error:
        raise _ClosedBefore("the server closed the connection") from error


def _authorization() -> dict[str, str]:
    token = os.environ.get("ERA_STORAGE_TOKEN") or os.environ.get("ERA_API_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _problem(answer: Answer) -> dict[str, Any]:
    """Returns the error that the server answered with."""
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and problem:
        return problem
    text = answer.body[:_MAX_ERROR].decode("utf-8", "replace").strip()
    return {"error": f"HTTP status {answer.status}", "message": text}


def _sentence(what: str, problem: Mapping[str, Any]) -> str:
    """Returns such as `KV set failed: Too large: The value is larger than 25 MiB.`."""
    sentence = f"{what} failed"
    for name in ("error", "message"):
        text = problem.get(name)
        if isinstance(text, str) and text and text not in sentence:
            sentence = f"{sentence}: {text}"
    details = problem.get("details")
    if isinstance(details, str) and details not in sentence:
        sentence = f"{sentence} ({details})"
    return sentence
