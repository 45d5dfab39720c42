"""Hands a request to stored code by its environment, and makes an answer of what it prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tornado.httputil import HTTPServerRequest

from era_kernels import json_codec
from era_kernels.errors import BadGateway, GatewayTimeout, TooLarge
from era_kernels.json_incremental import free_in_steps
from era_kernels.models import JsonObject
from era_kernels.web import proxy_headers
from era_kernels.web.proxy_headers import Headers, Place

if TYPE_CHECKING:
    from era_kernels.services.executions.result import RunResult

MAX_BODY = 96 * 1024  # bytes; Linux takes 128 KiB of a variable, with its name
_MAX_VARIABLE = 128 * 1024  # bytes of a name and its value, as Linux takes them
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_STATUSES = range(200, 600)
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json; charset=utf-8"


def request_env(
    request: HTTPServerRequest, place: Place, headers: Headers, body: bytes
) -> dict[str, str]:
    """Returns the variables that tell a program of a request. Raises TooLarge.

    What is no UTF-8 takes more room as text than as it came.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
    joined = {name: ", ".join(parts) for name, parts in values.items()}
    _, mark, query = (request.uri or "").partition("?")
    env = {
        "ERA_REQUEST_MODE": "proxy",
        "ERA_HTTP_METHOD": str(request.method),
        "ERA_HTTP_PATH": place.path,
        "ERA_HTTP_QUERY": mark + query if query else "",
        "ERA_HTTP_HEADERS": json_codec.dumps(joined).decode(),
        "ERA_HTTP_BODY": body.decode("utf-8", "replace"),
        "ERA_HTTP_PORT": str(place.port),
    }
    env = {name: text.replace("\0", "\ufffd") for name, text in env.items()}
    for name, text in env.items():
        if len(name) + len(text.encode()) + 2 > _MAX_VARIABLE:
            raise TooLarge(f"The request is larger as text than {name} can hold.")
    return env


async def parse_answer(result: RunResult, place: Place) -> tuple[int, Headers, bytes]:
    """Returns status, headers and body: of a JSON object, which is the whole body, or of a text.

    Other tasks run meanwhile: a program may print a bomb. Raises GatewayTimeout, BadGateway where
    the answer is not all that the program would have said.
    """
    execution_id = result.execution_id
    if result.error is not None and result.error.code == "EXECUTION_TIMEOUT":
        raise GatewayTimeout("The stored code gave no answer in time.", id=execution_id)
    if result.error is not None:
        message = f"The stored code gave no whole answer. {result.error.message}"
        raise BadGateway(message, id=execution_id)
    if not result.is_stdout_whole:
        message = "The stored code printed more than max_answer_output allows."
        raise BadGateway(message, id=execution_id)
    body = result.stdout.encode("utf-8", "replace")
    value = await json_codec.loads_object_or_none_async(body)
    if value is None:
        return (500 if result.exit_code else 200), [("Content-Type", _TEXT)], body
    status = value.get("status")
    if isinstance(status, bool) or not isinstance(status, int) or status not in _STATUSES:
        status = 200
    given = value.get("contentType")
    content_type = given if isinstance(given, str) and _is_value(given) else _JSON
    headers = proxy_headers.response_headers(list(_headers(value)), place)
    free_in_steps(value)
    return status, [("Content-Type", content_type), *headers], body


def _headers(value: JsonObject) -> Headers:
    """Returns the headers that the object names; what can be none is left out."""
    given = value.get("headers")
    if not isinstance(given, Mapping):
        return []
    return [
        (name, str(text))
        for name, text in given.items()
        if _NAME.fullmatch(name)
        and isinstance(text, str | int | float)
        and _is_value(str(text))
        and name.lower() not in ("content-length", "content-type")
    ]


def _is_value(text: str) -> bool:
    return not _CONTROL.search(text) and all(ord(character) < 256 for character in text)
