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

from era_kernels import json_incremental
from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.errors import InvalidJson, InvalidRequest
from era_kernels.models import JsonObject

THREAD_BYTES = 1024 * 1024  # bytes from which parsing and encoding leave the event loop
SLICE_BYTES = (
    4 * THREAD_BYTES
)  # bytes from which that is too much for a thread, which keeps the lock meanwhile
ARRAY_SLICE_SECONDS = 0.002  # seconds of encoding after which others have their turn
MAX_DEPTH = 200  # levels of nesting in a body; what comes in must go out again without a crash

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTAINERS = (dict, list)
_OBJECT_HINT = "Send a JSON object as the body."
_CONTROL_HINT = r"Inside a string, the end of a line is written \n and a tab \t."


def _reject_constant(text: str) -> NoReturn:
    raise InvalidJson(f"The body is not valid JSON: {text} is no JSON value.")


def _parse_finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidJson("The body holds a number that is too large for a JSON number.")
    return value


_decoder = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite_float)
_numbers_as_text_decoder = json.JSONDecoder(
    parse_constant=_reject_constant, parse_float=str, parse_int=str
)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def loads_object(body: bytes) -> JsonObject:
    """The object that a body holds; an empty body is the empty object. The last duplicate wins.

    Raises InvalidJson for malformed text, invalid UTF-8, NaN, Infinity, lone surrogates and nesting
    beyond `MAX_DEPTH`; InvalidRequest when it is no object.
    """
    if not body or body.isspace():
        return {}
    value = _loads(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _loads(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
        value = _decoder.decode(text)
    except UnicodeDecodeError:
        raise InvalidJson(
            "The body is not valid JSON: it is not UTF-8.", hint=_OBJECT_HINT
        ) from None
    except json.JSONDecodeError as error:
        raise _malformed_error(error) from None
    except RecursionError:
        raise _too_deep_error() from None
    except ValueError:
        # The interpreter's limit on the digits of an integer, against quadratic parsing.
        raise InvalidJson("The body holds an integer with too many digits.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise _too_deep_error()
    if _SURROGATE_ESCAPE.search(text) and _has_surrogate(value):
        raise InvalidJson("The body holds a lone surrogate, which is no character.")
    return value


def loads_numbers_as_text(body: bytes) -> JsonObject:
    """A body that `loads_object` took, with every number as the text that stands in it."""
    value: JsonObject = _numbers_as_text_decoder.decode(body.decode("utf-8-sig"))
    return value


def dumps(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8. What programs made (NaN, lone surrogates) is mended: it stays valid JSON."""
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:  # a lone surrogate, or nested deeper than it goes
        return _repair(value)


def iterdumps(value: Mapping[str, Any]) -> Iterator[bytes]:
    """The same as `dumps` gives, in pieces of which each takes little time."""
    for piece in json_incremental.iterencode(value):
        try:
            if not piece.isascii():
                piece.decode()
            yield piece
        except UnicodeDecodeError:  # a lone surrogate
            yield _SURROGATE.sub("\ufffd", piece.decode("utf-8", "surrogatepass")).encode()


async def dumps_async(value: Mapping[str, Any], size: int) -> bytes:
    """The same as `dumps` gives, of about `size` bytes; others have their turn meanwhile."""
    if size > SLICE_BYTES:
        return b"".join(await run_cooperatively(_collect_chunks(value)))
    if size > THREAD_BYTES:
        return await asyncio.to_thread(dumps, value)
    return dumps(value)


def _collect_chunks(value: Mapping[str, Any]) -> Stepwise[list[bytes]]:
    found = []
    for piece in iterdumps(value):
        found.append(piece)
        yield
    return found


async def dumps_array(items: Iterable[Mapping[str, Any]]) -> tuple[bytes, int]:
    """The items as a JSON array, and how many they are; others have their turn in between.

    A thread would hold them up all the same: it keeps the interpreter's lock.
    """
    texts = []
    began = time.perf_counter()
    for item in items:
        texts.append(dumps(item))
        if time.perf_counter() - began > ARRAY_SLICE_SECONDS:
            await asyncio.sleep(0)
            began = time.perf_counter()
    return b"[%b]" % b",".join(texts), len(texts)


def _repair(value: Mapping[str, Any]) -> bytes:
    try:
        text = _encoder.encode(value)
    except ValueError:
        text = _encoder.encode(_without_nan(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _malformed_error(error: json.JSONDecodeError) -> InvalidJson:
    """Some of the decoder's phrases end in `at`, so that the place is told once."""
    phrase = error.msg.removesuffix(" at")
    control = phrase.startswith("Invalid control character")
    return InvalidJson(
        f"The body is not valid JSON: {phrase} at line {error.lineno}, column {error.colno}.",
        hint=_CONTROL_HINT if control else _OBJECT_HINT,
    )


def _too_deep_error() -> InvalidJson:
    return InvalidJson(f"The body is nested too deeply: {MAX_DEPTH} levels are allowed.")


def _is_deeper_than(value: Any, levels: int) -> bool:
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
