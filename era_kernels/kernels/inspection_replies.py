"""Checks and bounds what a kernel reports of its stack and its variables: pure functions.

Like all that comes from a kernel this is hostile input. Values of the wrong shape are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from era_kernels.kernels.message_events import valid_json
from era_kernels.models import MISSING, JsonObject, StackFrame, Variable, Variables

MAX_FRAMES = 200
MAX_LINE_LENGTH = 500  # characters of a frame's texts
MAX_VARIABLES = 1000
MAX_NAME_LENGTH = 256  # characters of a name or a type
MAX_DIMENSIONS = 32
MAX_VALUE_DEPTH = 100
COUNT_LIMIT = 1 << 63  # line numbers, sizes and dimensions are below it
MAX_VALUES_LENGTH = 2 * 1024 * 1024  # characters of all values together, as JSON


def parse_frames(content: JsonObject) -> list[StackFrame]:
    """Returns the frames of a reply, innermost last."""
    listed = content.get("frames")
    found = [_parse_frame(one) for one in listed[-MAX_FRAMES:]] if isinstance(listed, list) else []
    return [one for one in found if one is not None]


def parse_variables(content: JsonObject) -> Variables:
    """Returns the variables of a reply."""
    reported = content.get("variables")
    listed: Sequence[Any] = reported if isinstance(reported, list) else []
    found: list[Variable] = []
    length_left = MAX_VALUES_LENGTH
    for one in listed[:MAX_VARIABLES]:
        variable = _parse_variable(one)
        if variable is not None:
            length_left -= 0 if variable.value is MISSING else len(json.dumps(variable.value))
            if length_left < 0:
                break
            found.append(variable)
    truncated = content.get("truncated") is not False or len(found) < len(listed)
    return Variables(tuple(found), truncated)


def _parse_frame(value: Any) -> StackFrame | None:
    if not isinstance(value, dict):
        return None
    file, function, source = (
        _parse_text(value.get(n), MAX_LINE_LENGTH) for n in ("file", "function", "source")
    )
    line = _parse_count(value.get("line"))
    if file is None or function is None or line is None:
        return None
    return StackFrame(file, line, function, source or "")


def _parse_variable(value: Any) -> Variable | None:
    if not isinstance(value, dict):
        return None
    name, type_name = (
        _parse_text(value.get("name"), MAX_NAME_LENGTH),
        _parse_text(value.get("type"), MAX_NAME_LENGTH),
    )
    if name is None or type_name is None:
        return None
    try:
        json_value = valid_json(value["value"], MAX_VALUE_DEPTH) if "value" in value else MISSING
    except ValueError:
        json_value = MISSING
    return Variable(
        name,
        type_name,
        _parse_shape(value.get("shape")),
        _parse_count(value.get("size")),
        json_value,
    )


def _parse_shape(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return None
    lengths = [_parse_count(one) for one in value]
    return None if None in lengths else tuple(one for one in lengths if one is not None)


def _parse_count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < COUNT_LIMIT else None


def _parse_text(value: Any, max_length: int) -> str | None:
    if not isinstance(value, str):
        return None
    text: str = valid_json(value[:max_length])
    return text
