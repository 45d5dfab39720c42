"""What a kernel says, as values of ours: a pure table from message type to function.

Everything here is hostile input: user code can reach its kernel's sockets. A message of a wrong
shape becomes None, never an exception; text is valid Unicode and JSON values are valid JSON
afterwards (lone surrogates become U+FFFD, NaN and the infinities null), nested at most DEPTH deep.

The message types are those of the Jupyter messaging specification, version 5; the fence and the
`era` object of a reply are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from era_kernels.json_incremental import SanitizedDict
from era_kernels.models import (
    ClearOutput,
    Display,
    ExceptionInfo,
    InputRequest,
    JsonObject,
    Output,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
)

FENCE = "application/vnd.era.fence+json"
DEPTH = 100  # of nested JSON in a MIME bundle
ID_LENGTH = 1024  # characters of a display id
KEY_LENGTH = 64  # characters of the key of a request for input
PROMPT_LENGTH = 8192  # characters of its prompt
VALUE_LENGTH = 64 * 1024  # characters of an exception's name or text; stderr has all of it
TRACEBACK_LENGTH = 256 * 1024  # characters of a traceback's lines together

_SURROGATES = re.compile("[\ud800-\udfff]")


class _WrongShape(ValueError):
    """A message is not what its type promises."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a kernel answers to a run."""

    exit_code: int
    exception: ExceptionInfo | None = None


def event(kind: str, content: JsonObject) -> Output | None:
    """The event that an iopub message of type `kind` stands for.

    None when it stands for none (a status, a comm, a fence) or has the wrong shape.
    """
    make = _EVENTS.get(kind)
    if make is None or fence(kind, content) is not None:
        return None
    try:
        return make(content)
    except _WrongShape:
        return None


def is_output(kind: str) -> bool:
    """Messages of this type stand for an event when they have the right shape."""
    return kind in _EVENTS


def fence(kind: str, content: JsonObject) -> str | None:
    """The nonce of a fence, the message that ends a run's output; None for all else.

    A fence without a proper nonce has the nonce "", which is nobody's.
    """
    data = content.get("data")
    if kind != "display_data" or not isinstance(data, dict) or FENCE not in data:
        return None
    body = data[FENCE]
    nonce = body.get("nonce") if isinstance(body, dict) else None
    return nonce if isinstance(nonce, str) else ""


def reply(content: JsonObject) -> Reply | None:
    """The outcome that an execute_reply tells; None when it has the wrong shape.

    A kernel that has no `era` object to send is believed its `status`.
    """
    era = content.get("era")
    if isinstance(era, dict):
        code = era.get("exit_code")
        if type(code) is not int:
            return None
        return Reply(code & 0xFF, _exception(era.get("exception")))
    if content.get("status") == "ok":
        return Reply(0)
    if content.get("status") == "error":
        told = {"name": content.get("ename"), "value": content.get("evalue")}
        return Reply(1, _exception({**told, "traceback": content.get("traceback")}))
    return None


# ---------------------------------------------------------------- the table


def _stream(content: JsonObject) -> Output:
    make = _STREAMS.get(_string(content.get("name")))
    if make is None:
        raise _WrongShape
    text = content.get("text")
    return make(_string(text) if isinstance(content, SanitizedDict) else _text(text))


def _result(content: JsonObject) -> Output:
    return Result(_bundle(content.get("data")), _bundle(content.get("metadata", {})))


def _display(content: JsonObject) -> Output:
    return Display(
        _bundle(content.get("data")), _bundle(content.get("metadata", {})), _display_id(content)
    )


def _update_display(content: JsonObject) -> Output:
    return UpdateDisplay(
        _bundle(content.get("data")), _bundle(content.get("metadata", {})), _display_id(content)
    )


def _clear_output(content: JsonObject) -> Output:
    return ClearOutput(content.get("wait") is True)


def _input_request(content: JsonObject) -> Output:
    prompt, key = _text(content.get("prompt")), _text(content.get("key"))
    if len(key) > KEY_LENGTH:
        raise _WrongShape
    return InputRequest(prompt[:PROMPT_LENGTH], content.get("password") is True, key)


_STREAMS: dict[str, Callable[[str], Output]] = {"stdout": Stdout, "stderr": Stderr}
_EVENTS: dict[str, Callable[[JsonObject], Output]] = {
    "stream": _stream,
    "execute_result": _result,
    "display_data": _display,
    "update_display_data": _update_display,
    "clear_output": _clear_output,
    "input_request": _input_request,  # Jupyter sends it on stdin, where no order holds
}


# ---------------------------------------------------------------- the checks


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongShape
    return value


def _text(value: Any) -> str:
    """A string that can be written as UTF-8."""
    text = _string(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def _bundle(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise _WrongShape
    if isinstance(value, SanitizedDict):
        return value
    return {_text(name): _json(item, DEPTH) for name, item in value.items()}


def _json(value: Any, depth: int) -> Any:
    """Valid JSON. The kinds are in the order of how often they occur in a bundle."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if not depth:
        raise _WrongShape
    if isinstance(value, list):
        return [_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_text(name): _json(item, depth - 1) for name, item in value.items()}
    raise _WrongShape


def _display_id(content: JsonObject) -> str | None:
    transient = content.get("transient")
    found = transient.get("display_id") if isinstance(transient, dict) else None
    if not isinstance(found, str) or len(found) > ID_LENGTH:
        return None
    return _text(found)


def _exception(value: Any) -> ExceptionInfo | None:
    """An exception, cut to a bounded size; None when there is none or its shape is wrong."""
    if not isinstance(value, dict):
        return None
    try:
        name, text = _text(value.get("name")), _text(value.get("value"))
        return ExceptionInfo(
            name[:VALUE_LENGTH], text[:VALUE_LENGTH], _lines(value.get("traceback"))
        )
    except _WrongShape:
        return None


def _lines(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _WrongShape
    lines: list[str] = []
    room = TRACEBACK_LENGTH
    for line in map(_text, value):
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    return lines


def valid_json(value: Any, depth: int = DEPTH) -> Any:
    """The same as valid JSON. Raises ValueError."""
    return _json(value, depth)
