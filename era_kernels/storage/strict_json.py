"""JSON that hostile code wrote: an object by the strict rules of the API, or nothing."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from era_kernels.models import JsonObject

MAX_DEPTH = 200  # levels of nesting, as in the bodies of requests

_SURROGATE = re.compile("[\ud800-\udfff]")


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _parse_finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number that is too large")
    return value


_decoder = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite_float)


def loads_object_or_none(data: bytes) -> JsonObject | None:
    """The object; None for what is none, or holds NaN, lone surrogates, too many levels or digits.

    >>> loads_object_or_none(b'{"a": 1}'), loads_object_or_none(b"[1]"), loads_object_or_none(b'{"a": NaN}')
    ({'a': 1}, None, None)
    """
    try:
        value = _decoder.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or _is_deeper_than(value, MAX_DEPTH):
        return None
    if b"\\u" in data and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return None
    return value


def _is_deeper_than(value: Any, levels: int) -> bool:
    """Level by level, not by recursion: this must not fail on what it looks for."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
