"""Turns a kernel's messages into events and replies, by a pure table from type to function.

The message that asks for a run is made here, too.

Everything here is hostile input: user code can reach its kernel's sockets. A message of a wrong
shape becomes None, never an exception; text is valid Unicode and JSON values are valid JSON
afterwards (lone surrogates become U+FFFD, NaN and the infinities null), at most MAX_DEPTH deep.

The message types are those of the Jupyter messaging specification, version 5; the fence and the
`era` object of a reply are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from era_kernels.json_incremental import SanitizedDict, Utf8Text
from era_kernels.models import (
    ClearOutput,
    Display,
    ExceptionInfo,
    InputRequest,
    JsonObject,
    KernelRequest,
    Output,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
)

FENCE_MIME_TYPE = "application/vnd.era.fence+json"
MAX_DEPTH = 100  # of nested JSON in a MIME bundle
MAX_DISPLAY_ID_LENGTH = 1024  # characters of a display id
MAX_KEY_LENGTH = 64  # characters of the key of a request for input
MAX_PROMPT_LENGTH = 8192  # characters of the prompt of a request for input
MAX_EXCEPTION_LENGTH = 64 * 1024  # characters of an exception's name or text; stderr has all of it
MAX_FAULT_LENGTH = 500  # characters that tell of a fault of the kernel itself
MAX_TRACEBACK_LENGTH = 256 * 1024  # characters of a traceback's lines together
MAX_TRACEBACK_LINES = 10_000
MAX_ERROR_LENGTH = 256 * 1024  # characters of an `error` message's text, before its end is left out
ERROR_CUT = "[era] the rest of this error is left out\n"

# Characters of any other text than that of a stream: more than is ever used of one.
_MAX_TEXT_LENGTH = 1024 * 1024

# Escape sequences of ECMA-48: control sequences (colours), strings (titles, links), the others.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])"
)
_ABORTED = ("aborted", "abort")  # the second before version 5.1 of the specification
_NOT_OF_A_FAULT = re.compile(r"[^A-Za-z0-9_.: ]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class _WrongShape(ValueError):
    """Reports that a message has not the shape that its type promises."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Holds what a kernel replies to a run; `fault` tells which of its own steps failed."""

    exit_code: int
    exception: ExceptionInfo | None = None
    fault: str | None = None
    is_refusal: bool = False  # the kernel did not run the code


def execute_request(request: KernelRequest, nonce: str) -> tuple[str, JsonObject, JsonObject]:
    """Returns the type, content and metadata of the message that asks a kernel for a run."""
    content: JsonObject = {
        "code": request.code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    era = {
        "nonce": nonce,
        "number": request.run_number,
        "env": dict(request.env),
        "ends": request.ends_program,
    }
    return "execute_request", content, {"era": era}


def to_event(msg_type: str, content: JsonObject) -> Output | None:
    """Returns the event that an iopub message of type `msg_type` stands for.

    None when the message stands for none (a status, a comm, a fence) or has the wrong shape.
    """
    make = _PARSERS.get(msg_type)
    if make is None or fence_nonce(msg_type, content) is not None:
        return None
    try:
        return make(content)
    except _WrongShape:
        return None


def is_output(msg_type: str) -> bool:
    """Returns whether well-formed messages of this type stand for an event."""
    return msg_type in _PARSERS


def fence_nonce(msg_type: str, content: JsonObject) -> str | None:
    """Returns the nonce of a fence, the message that ends a run's output; None for all else.

    A fence without a proper nonce has the nonce "", which no run has.
    """
    data = content.get("data")
    if msg_type != "display_data" or not isinstance(data, dict) or FENCE_MIME_TYPE not in data:
        return None
    body = data[FENCE_MIME_TYPE]
    nonce = body.get("nonce") if isinstance(body, dict) else None
    return nonce if isinstance(nonce, str) else ""


def parse_reply(content: JsonObject) -> Reply | None:
    """Returns the outcome in an execute_reply; None when the reply has the wrong shape.

    Without an `era` object the outcome is the reply's `status`; colours are removed then.
    """
    era = content.get("era")
    if isinstance(era, dict):
        code = era.get("exit_code")
        if type(code) is not int:
            return None
        return Reply(code & 0xFF, _parse_exception(era.get("exception")), _parse_fault(era))
    if content.get("status") == "ok":
        return Reply(0)
    if content.get("status") == "error":
        return Reply(1, _parse_error(content))
    if content.get("status") in _ABORTED:
        return Reply(1, is_refusal=True)
    return None


def error_text(content: JsonObject) -> str | None:
    """Returns the text that a terminal would show of an `error` message, without its colours.

    None when the message has the wrong shape.
    """
    lines = content.get("traceback") or []
    if not isinstance(lines, list):
        return None
    try:
        text, is_cut = _join_start(lines, "\n", MAX_ERROR_LENGTH)
        if not text.strip():
            name_and_value = [content.get("ename"), content.get("evalue")]
            text, is_cut = _join_start(name_and_value, ": ", MAX_ERROR_LENGTH)
    except _WrongShape:
        return None
    return f"{remove_colours(text).rstrip()}\n{ERROR_CUT if is_cut else ''}"


def exception_text(exception: ExceptionInfo) -> str:
    """Returns the text that a terminal would show of an exception."""
    lines = exception.traceback or [f"{exception.name}: {exception.value}"]
    return "\n".join(lines).rstrip() + "\n"


def remove_colours(text: str) -> str:
    """Returns the text without the escape sequences of terminals.

    >>> remove_colours("\x1b[0;31mZeroDivisionError\x1b[0m: division by zero")
    'ZeroDivisionError: division by zero'
    """
    return _ESCAPES.sub("", text) if "\x1b" in text else text


# ---------------------------------------------------------------- the table


def _parse_stream(content: JsonObject) -> Output:
    make = _STREAMS.get(_require_string(content.get("name")))
    if make is None:
        raise _WrongShape
    text = content.get("text")
    if isinstance(text, Utf8Text):
        return make(str(text))
    return make(_require_string(text) if isinstance(content, SanitizedDict) else _clean_text(text))


def _parse_result(content: JsonObject) -> Output:
    return Result(_clean_bundle(content.get("data")), _clean_bundle(content.get("metadata", {})))


def _parse_display(content: JsonObject) -> Output:
    return Display(
        _clean_bundle(content.get("data")),
        _clean_bundle(content.get("metadata", {})),
        _find_display_id(content),
    )


def _parse_update_display(content: JsonObject) -> Output:
    return UpdateDisplay(
        _clean_bundle(content.get("data")),
        _clean_bundle(content.get("metadata", {})),
        _find_display_id(content),
    )


def _parse_clear_output(content: JsonObject) -> Output:
    return ClearOutput(content.get("wait") is True)


def _parse_input_request(content: JsonObject) -> Output:
    prompt, key = _clean_text(content.get("prompt")), _clean_text(content.get("key"))
    if len(key) > MAX_KEY_LENGTH:
        raise _WrongShape
    return InputRequest(prompt[:MAX_PROMPT_LENGTH], content.get("password") is True, key)


_STREAMS: dict[str, Callable[[str], Output]] = {"stdout": Stdout, "stderr": Stderr}
_PARSERS: dict[str, Callable[[JsonObject], Output]] = {
    "stream": _parse_stream,
    "execute_result": _parse_result,
    "display_data": _parse_display,
    "update_display_data": _parse_update_display,
    "clear_output": _parse_clear_output,
    "input_request": _parse_input_request,  # Jupyter sends it on stdin, in no order with output
}


# ---------------------------------------------------------------- the checks


def _require_string(value: Any) -> str:
    if isinstance(value, Utf8Text):
        return value.start(_MAX_TEXT_LENGTH)
    if not isinstance(value, str):
        raise _WrongShape
    return value


def _clean_text(value: Any) -> str:
    """Returns the string with lone surrogates replaced, so that it can be written as UTF-8."""
    text = _require_string(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def _join_start(values: list[Any], separator: str, max_length: int) -> tuple[str, bool]:
    """Joins strings until that is too long; returns whether it was.

    What is left out costs nothing: one message may have a hundred megabytes.
    """
    parts: list[str] = []
    length_left = max_length
    for value in values[:MAX_TRACEBACK_LINES]:
        text = _require_string(value)
        parts.append(_clean_text(text[: max(0, length_left)]))
        length_left -= len(text) + len(separator)
        if length_left + len(separator) < 0:
            return separator.join(parts), True
    return separator.join(parts), len(values) > MAX_TRACEBACK_LINES


def _clean_bundle(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise _WrongShape
    if isinstance(value, SanitizedDict):
        return value
    return {_clean_text(name): _clean_json(item, MAX_DEPTH) for name, item in value.items()}


def _clean_json(value: Any, depth: int) -> Any:
    """Returns the value as valid JSON. The types are tested in order of their frequency."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if not depth:
        raise _WrongShape
    if isinstance(value, list):
        return [_clean_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_clean_text(name): _clean_json(item, depth - 1) for name, item in value.items()}
    raise _WrongShape


def _find_display_id(content: JsonObject) -> str | None:
    transient = content.get("transient")
    found = transient.get("display_id") if isinstance(transient, dict) else None
    if not isinstance(found, str) or len(found) > MAX_DISPLAY_ID_LENGTH:
        return None
    return _clean_text(found)


def _parse_exception(value: Any) -> ExceptionInfo | None:
    """Returns an exception, cut to a bounded size; None when there is none or it is malformed."""
    if not isinstance(value, dict):
        return None
    try:
        name, text = _require_string(value.get("name")), _require_string(value.get("value"))
        return ExceptionInfo(
            _clean_text(name[:MAX_EXCEPTION_LENGTH]),
            _clean_text(text[:MAX_EXCEPTION_LENGTH]),
            _clean_lines(value.get("traceback")),
        )
    except _WrongShape:
        return None


def _parse_error(content: JsonObject) -> ExceptionInfo | None:
    """Returns the exception in the fields that Jupyter gives it, without colours."""
    traceback = content.get("traceback") or []
    fields = {"name": content.get("ename"), "value": content.get("evalue"), "traceback": traceback}
    exception = _parse_exception(fields)
    if exception is None:
        return None
    lines = [remove_colours(line) for line in exception.traceback]
    return ExceptionInfo(remove_colours(exception.name), remove_colours(exception.value), lines)


def _parse_fault(era: JsonObject) -> str | None:
    """Returns what names a fault: class, files and lines. Other characters are replaced."""
    fault = era.get("fault")
    if not isinstance(fault, str):
        return None
    return _NOT_OF_A_FAULT.sub("?", fault[:MAX_FAULT_LENGTH])


def _clean_lines(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _WrongShape
    lines: list[str] = []
    length_left = MAX_TRACEBACK_LENGTH
    for line in map(_require_string, value[:MAX_TRACEBACK_LINES]):
        length_left -= len(line) + 1
        if length_left < 0:
            break
        lines.append(_clean_text(line))
    return lines


def valid_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Returns the value as valid JSON. Raises ValueError."""
    return _clean_json(value, depth)
