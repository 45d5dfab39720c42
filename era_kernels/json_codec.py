"""Parses JSON by strict rules, and writes JSON that is compact and always valid."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar

from pydantic_core import PydanticSerializationError, to_json

from era_kernels import json_incremental
from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.errors import InvalidJson, InvalidRequest

JsonObject = dict[str, Any]

P = ParamSpec("P")
T = TypeVar("T")

THREAD_BYTES = 1024 * 1024  # bytes from which parsing and encoding leave the event loop
# Bytes from which encoding is too long for a thread, which holds the interpreter's lock meanwhile.
SLICE_BYTES = 4 * THREAD_BYTES
ARRAY_SLICE_SECONDS = 0.002  # seconds of encoding between two yields to other tasks
MAX_DEPTH = 200  # levels of nesting in a body; everything that is parsed must be encodable again

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
    """Returns the object that a body holds; an empty body is the empty object.

    Of names that occur twice, the last one counts.

    Raises InvalidJson for malformed text, invalid UTF-8, NaN, Infinity, lone surrogates and nesting
    beyond `MAX_DEPTH`; InvalidRequest for JSON that is no object.
    """
    if not body or body.isspace():
        return {}
    value = _loads(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def loads_array(body: bytes) -> list[Any]:
    """Returns the array that a body holds, by the rules of `loads_object`, whose errors it raises.

    >>> loads_array(b'[1, "a"]')
    [1, 'a']
    """
    value = loads_object(body) if not body or body.isspace() else _loads(body)
    if not isinstance(value, list):
        raise InvalidRequest("The body must be a JSON array.")
    return value


def loads_object_or_none(data: bytes) -> JsonObject | None:
    """Returns the object that hostile code wrote, by the rules of `loads_object`.

    None stands for everything that those rules refuse, and for empty or blank text.

    >>> loads_object_or_none(b'{"a": 1}'), loads_object_or_none(b"[1]"), loads_object_or_none(b"")
    ({'a': 1}, None, None)
    """
    try:
        value = _loads(data)
    except InvalidJson:
        return None
    return value if isinstance(value, dict) else None


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
    """Parses a body that `loads_object` accepts, with each number as the text in the body."""
    value: JsonObject = _numbers_as_text_decoder.decode(body.decode("utf-8-sig"))
    return value


def dumps(value: Mapping[str, Any]) -> bytes:
    """Encodes a value as compact UTF-8.

    Programs may have made values that JSON cannot hold: NaN becomes null, a lone surrogate U+FFFD.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:  # a lone surrogate, or nested deeper than pydantic allows
        return _repair(value)


def iterdumps(value: Mapping[str, Any]) -> Iterator[bytes]:
    """Yields the bytes of `dumps` in pieces, each of which takes little time."""
    for piece in json_incremental.iterencode(value):
        try:
            if not piece.isascii():
                piece.decode()
            yield piece
        except UnicodeDecodeError:  # a lone surrogate
            yield _SURROGATE.sub("\ufffd", piece.decode("utf-8", "surrogatepass")).encode()


async def dumps_async(value: Mapping[str, Any], size: int) -> bytes:
    """Returns the same as `dumps`, of about `size` bytes, and lets other tasks run meanwhile."""
    if size > SLICE_BYTES:
        return b"".join(await run_cooperatively(_collect_chunks(value)))
    if size > THREAD_BYTES:
        return await asyncio.to_thread(dumps, value)
    return dumps(value)


def _collect_chunks(value: Mapping[str, Any]) -> Stepwise[list[bytes]]:
    chunks = []
    for chunk in iterdumps(value):
        chunks.append(chunk)
        yield
    return chunks


async def dumps_array(items: Iterable[Mapping[str, Any]]) -> tuple[bytes, int]:
    """Encodes items as a JSON array, and counts them; lets other tasks run in between.

    A thread would delay the other tasks all the same: it holds the interpreter's lock.
    """
    texts = []
    started_at = time.perf_counter()
    for item in items:
        texts.append(dumps(item))
        if time.perf_counter() - started_at > ARRAY_SLICE_SECONDS:
            await asyncio.sleep(0)
            started_at = time.perf_counter()
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
    """Makes the error that names the place of a mistake, once: some messages end in `at`."""
    phrase = error.msg.removesuffix(" at")
    control = phrase.startswith("Invalid control character")
    return InvalidJson(
        f"The body is not valid JSON: {phrase} at line {error.lineno}, column {error.colno}.",
        hint=_CONTROL_HINT if control else _OBJECT_HINT,
    )


def _too_deep_error() -> InvalidJson:
    return InvalidJson(f"The body is nested too deeply: {MAX_DEPTH} levels are allowed.")


def _is_deeper_than(value: Any, levels: int) -> bool:
    """Returns True if a value has more levels; walks by level, for recursion could fail on them."""
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


async def in_thread_if_large(
    size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Returns the result of `work`; runs it in a thread when it handles many bytes (`size`)."""
    if size > THREAD_BYTES:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)
