"""JSON that hostile code wrote: an object by the strict rules of the API, or nothing."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from era_kernels.models import JsonObject

MAX_DEPTH = 200  # levels of nesting, as in the bodies of requests

_SURROGATE = re.compile("[\ud800-\udfff]")


def _no_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number that is too large")
    return value


_decoder = json.JSONDecoder(parse_constant=_no_json, parse_float=_finite)


def parse_object(data: bytes) -> JsonObject | None:
    """The object; None for what is none, or holds NaN, lone surrogates, too many levels or digits.

    >>> parse_object(b'{"a": 1}'), parse_object(b"[1]"), parse_object(b'{"a": NaN}')
    ({'a': 1}, None, None)
    """
    try:
        value = _decoder.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or _deeper(value, MAX_DEPTH):
        return None
    if b"\\u" in data and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return None
    return value


def _deeper(value: Any, levels: int) -> bool:
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
