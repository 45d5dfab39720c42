"""JSON as it crosses the wire: strict on the way in, compact and always valid on the way out."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from pydantic_core import PydanticSerializationError, to_json

from era_kernels import long_json
from era_kernels.errors import InvalidJson, InvalidRequest
from era_kernels.models import JsonObject
from era_kernels.steps import Steps, leisurely

BIG = 1024 * 1024  # bytes from which parsing and encoding leave the event loop
HUGE = 4 * BIG  # bytes from which that is too much for a thread, which keeps the lock meanwhile
SLICE = 0.002  # seconds of encoding after which others have their turn
MAX_DEPTH = 200  # levels of nesting in a body; what comes in must go out again without a crash

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTAINERS = (dict, list)
_HINT = "Send a JSON object as the body."
_CONTROL_HINT = r"Inside a string, the end of a line is written \n and a tab \t."


def _not_json(text: str) -> NoReturn:
    raise InvalidJson(f"The body is not valid JSON: {text} is no JSON value.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidJson("The body holds a number that is too large for a JSON number.")
    return value


_decoder = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)
_as_written = json.JSONDecoder(parse_constant=_not_json, parse_float=str, parse_int=str)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parse(body: bytes) -> JsonObject:
    """The object that a body holds; an empty body is the empty object. The last duplicate wins.

    Raises InvalidJson for malformed text, invalid UTF-8, NaN, Infinity, lone surrogates and nesting
    beyond `MAX_DEPTH`; InvalidRequest when it is no object.
    """
    if not body or body.isspace():
        return {}
    value = _decoded(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _decoded(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
        value = _decoder.decode(text)
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid JSON: it is not UTF-8.", hint=_HINT) from None
    except json.JSONDecodeError as mistake:
        raise _malformed(mistake) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        # The interpreter's limit on the digits of an integer, against quadratic parsing.
        raise InvalidJson("The body holds an integer with too many digits.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise _too_deep()
    if _SURROGATE_ESCAPE.search(text) and _has_surrogate(value):
        raise InvalidJson("The body holds a lone surrogate, which is no character.")
    return value


def numbers_as_written(body: bytes) -> JsonObject:
    """A body that `parse` took, with every number as the text that stands in it."""
    value: JsonObject = _as_written.decode(body.decode("utf-8-sig"))
    return value


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8. What programs made (NaN, lone surrogates) is mended: it stays valid JSON."""
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:  # a lone surrogate, or nested deeper than it goes
        return _mended(value)


def pieces(value: Mapping[str, Any]) -> Iterator[bytes]:
    """The same as `encode` gives, in pieces of which each takes little time."""
    for piece in long_json.pieces(value):
        try:
            if not piece.isascii():
                piece.decode()
            yield piece
        except UnicodeDecodeError:  # a lone surrogate
            yield _SURROGATE.sub("\ufffd", piece.decode("utf-8", "surrogatepass")).encode()


async def encoded(value: Mapping[str, Any], size: int) -> bytes:
    """The same as `encode` gives, of about `size` bytes; others have their turn meanwhile."""
    if size > HUGE:
        return b"".join(await leisurely(_collecting(value)))
    if size > BIG:
        return await asyncio.to_thread(encode, value)
    return encode(value)


def _collecting(value: Mapping[str, Any]) -> Steps[list[bytes]]:
    found = []
    for piece in pieces(value):
        found.append(piece)
        yield
    return found


async def encode_list(items: Iterable[Mapping[str, Any]]) -> tuple[bytes, int]:
    """The items as a JSON array, and how many they are; others have their turn in between.

    A thread would hold them up all the same: it keeps the interpreter's lock.
    """
    texts = []
    began = time.perf_counter()
    for item in items:
        texts.append(encode(item))
        if time.perf_counter() - began > SLICE:
            await asyncio.sleep(0)
            began = time.perf_counter()
    return b"[%b]" % b",".join(texts), len(texts)


def _mended(value: Mapping[str, Any]) -> bytes:
    try:
        text = _encoder.encode(value)
    except ValueError:
        text = _encoder.encode(_without_nan(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _malformed(mistake: json.JSONDecodeError) -> InvalidJson:
    """Some of the decoder's phrases end in `at`, so that the place is told once."""
    phrase = mistake.msg.removesuffix(" at")
    control = phrase.startswith("Invalid control character")
    return InvalidJson(
        f"The body is not valid JSON: {phrase} at line {mistake.lineno}, column {mistake.colno}.",
        hint=_CONTROL_HINT if control else _HINT,
    )


def _too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested too deeply: {MAX_DEPTH} levels are allowed.")


def _deeper(value: Any, levels: int) -> bool:
    """Level by level, not by recursion: this must not fail on what it looks for."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return False
    return True


def _has_surrogate(value: Any) -> bool:
    return _SURROGATE.search(_encoder.encode(value)) is not None


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
