"""What a kernel tells of its stack and its variables, checked and bounded: pure functions.

Like all that comes from a kernel this is hostile input. What has the wrong shape is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from era_kernels.kernels.messages import valid_json
from era_kernels.models import ABSENT, Frame, JsonObject, Variable, Variables

FRAMES = 200
LINE = 500  # characters of a frame's texts
NAMES = 1000
NAME = 256  # characters of a name or a type
DIMENSIONS = 32
VALUE_DEPTH = 100
LARGEST = 1 << 63  # line numbers, sizes and dimensions are below it
VALUES = 2 * 1024 * 1024  # characters of all values together, as JSON


def frames(content: JsonObject) -> list[Frame]:
    """The frames of an answer, innermost last."""
    told = content.get("frames")
    found = [_frame(one) for one in told[-FRAMES:]] if isinstance(told, list) else []
    return [one for one in found if one is not None]


def variables(content: JsonObject) -> Variables:
    """The variables of an answer."""
    told = content.get("variables")
    listed: Sequence[Any] = told if isinstance(told, list) else []
    found: list[Variable] = []
    room = VALUES
    for one in listed[:NAMES]:
        variable = _variable(one)
        if variable is not None:
            room -= 0 if variable.value is ABSENT else len(json.dumps(variable.value))
            if room < 0:
                break
            found.append(variable)
    truncated = content.get("truncated") is not False or len(found) < len(listed)
    return Variables(tuple(found), truncated)


def _frame(value: Any) -> Frame | None:
    if not isinstance(value, dict):
        return None
    file, function, source = (_text(value.get(n), LINE) for n in ("file", "function", "source"))
    line = _count(value.get("line"))
    if file is None or function is None or line is None:
        return None
    return Frame(file, line, function, source or "")


def _variable(value: Any) -> Variable | None:
    if not isinstance(value, dict):
        return None
    name, kind = _text(value.get("name"), NAME), _text(value.get("type"), NAME)
    if name is None or kind is None:
        return None
    try:
        held = valid_json(value["value"], VALUE_DEPTH) if "value" in value else ABSENT
    except ValueError:
        held = ABSENT
    return Variable(name, kind, _shape(value.get("shape")), _count(value.get("size")), held)


def _shape(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > DIMENSIONS:
        return None
    lengths = [_count(one) for one in value]
    return None if None in lengths else tuple(one for one in lengths if one is not None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < LARGEST else None


def _text(value: Any, length: int) -> str | None:
    if not isinstance(value, str):
        return None
    text: str = valid_json(value[:length])
    return text
