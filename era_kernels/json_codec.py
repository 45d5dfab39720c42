"""Parses JSON by strict rules, and writes JSON that is compact and always valid."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from pydantic_core import PydanticSerializationError, to_json

from era_kernels import json_incremental
from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively, run_in_slices
from era_kernels.errors import InvalidJson, InvalidRequest, TooLarge
from era_kernels.json_incremental import LARGE_BYTES, iterparse_strictly
from era_kernels.json_incremental.strict_parsing import (
    lone_surrogate,
    malformed,
    no_utf8,
    parse_finite_float,
    reject_constant,
    too_deep,
    too_many_digits,
)

JsonObject = dict[str, Any]

P = ParamSpec("P")
T = TypeVar("T")

THREAD_BYTES = 1024 * 1024  # bytes from which parsing and encoding leave the event loop
# Bytes from which encoding is too long for a thread, which holds the interpreter's lock meanwhile.
SLICE_BYTES = 4 * THREAD_BYTES
QUICK_BYTES, QUICK_VALUES = 16 * 1024, 5000  # bytes, or values, that take little time to parse
ARRAY_SLICE_SECONDS = 0.002  # seconds of encoding between two yields to other tasks
MAX_DEPTH = 200  # levels of nesting in a body; everything that is parsed must be encodable again
MAX_VALUES = (
    1_000_000  # names and items together in a body; smaller ones than LARGE_BYTES have less
)

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTAINERS = (dict, list)


_decoder = json.JSONDecoder(parse_constant=reject_constant, parse_float=parse_finite_float)
_numbers_as_text_decoder = json.JSONDecoder(
    parse_constant=reject_constant, parse_float=str, parse_int=str
)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def is_quick_to_parse(body: bytes) -> bool:
    """Returns whether a body has few bytes, or few values for its bytes, as code and texts have."""
    if len(body) <= QUICK_BYTES:
        return True
    return len(body) <= LARGE_BYTES and sum(map(body.count, (b",", b"[", b"{"))) <= QUICK_VALUES


def loads_object(body: bytes) -> JsonObject:
    """Returns the object that a body holds; an empty body is the empty object.

    Of names that occur twice, the last one counts.

    Raises InvalidJson for malformed text, invalid UTF-8, NaN, Infinity and lone surrogates;
    TooLarge for nesting beyond `MAX_DEPTH` and more than `MAX_VALUES` names and items;
    InvalidRequest for JSON that is no object.
    """
    if not body or body.isspace():
        return {}
    return _check_object(_loads(body))


def loads_array(body: bytes) -> list[Any]:
    """Returns the array that a body holds, by the rules of `loads_object`, whose errors it raises.

    >>> loads_array(b'[1, "a"]')
    [1, 'a']
    """
    return _check_array({} if not body or body.isspace() else _loads(body))


def loads_object_or_none(data: bytes) -> JsonObject | None:
    """Returns the object that hostile code wrote, by the rules of `loads_object`.

    None stands for everything that those rules refuse, and for empty or blank text.

    >>> loads_object_or_none(b'{"a": 1}'), loads_object_or_none(b"[1]"), loads_object_or_none(b"")
    ({'a': 1}, None, None)
    """
    try:
        value = _loads(data)
    except (InvalidJson, TooLarge):
        return None
    return value if isinstance(value, dict) else None


async def loads_object_or_none_async(data: bytes) -> JsonObject | None:
    """Returns the same as `loads_object_or_none`; lets other tasks run, as `loads_object_async`."""
    if is_quick_to_parse(data):
        return loads_object_or_none(data)
    try:
        value = await run_cooperatively(_loads_stepwise(data))
    except (InvalidJson, TooLarge):
        return None
    return value if isinstance(value, dict) else None


async def loads_object_async(body: bytes) -> JsonObject:
    """Returns the same as `loads_object`; lets other tasks run while it parses a large body."""
    if is_quick_to_parse(body):
        return loads_object(body)
    return _check_object(await run_cooperatively(_loads_stepwise(body)))


async def loads_array_async(body: bytes) -> list[Any]:
    """Returns the same as `loads_array`; lets other tasks run while it parses a large body."""
    if is_quick_to_parse(body):
        return loads_array(body)
    return _check_array(await run_cooperatively(_loads_stepwise(body)))


async def loads_numbers_as_text(body: bytes) -> JsonObject:
    """Parses a body that `loads_object` accepts, with each number as the text in the body."""
    if is_quick_to_parse(body):
        value: JsonObject = _numbers_as_text_decoder.decode(body.decode("utf-8-sig"))
        return value
    return _check_object(await run_cooperatively(_loads_stepwise(body, numbers_as_text=True)))


def _check_object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _check_array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest("The body must be a JSON array.")
    return value


def _loads(body: bytes) -> Any:
    """Parses a body; one that is large in a thread's slices, for the loop has better to do."""
    if len(body) > LARGE_BYTES:
        return run_in_slices(_loads_stepwise(body))
    try:
        text = body.decode("utf-8-sig")
        value = _decoder.decode(text)
    except UnicodeDecodeError:
        raise no_utf8() from None
    except json.JSONDecodeError as error:
        raise malformed(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise too_deep(MAX_DEPTH) from None
    except ValueError:
        raise too_many_digits() from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise too_deep(MAX_DEPTH)
    if _SURROGATE_ESCAPE.search(text) and _has_surrogate(value):
        raise lone_surrogate()
    return value


def _loads_stepwise(body: bytes, *, numbers_as_text: bool = False) -> Stepwise[Any]:
    """Parses a large body in steps; a blank one is the empty object."""
    if (yield from _is_blank(body)):
        return {}
    return (
        yield from iterparse_strictly(body, MAX_VALUES, MAX_DEPTH, numbers_as_text=numbers_as_text)
    )


def _is_blank(body: bytes) -> Stepwise[bool]:
    for start in range(0, len(body), LARGE_BYTES):
        if not body[start : start + LARGE_BYTES].isspace():
            return False
        yield
    return True


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
    return b"".join(await dump_pieces(value, size))


async def dump_pieces(value: Mapping[str, Any], size: int) -> list[bytes]:
    """Returns the same in pieces, none of which is empty, for who joins them anyway."""
    if size > SLICE_BYTES:
        return await run_cooperatively(_collect_chunks(value))
    if size > THREAD_BYTES:
        return [await asyncio.to_thread(dumps, value)]
    return [dumps(value)]


def _collect_chunks(value: Mapping[str, Any]) -> Stepwise[list[bytes]]:
    chunks = []
    for chunk in iterdumps(value):
        if chunk:
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
        if json_incremental.estimate_size(item) > LARGE_BYTES:
            texts.append(await dumps_async(item, SLICE_BYTES + 1))
        else:
            texts.append(dumps(item))
        if time.perf_counter() - started_at > ARRAY_SLICE_SECONDS:
            await asyncio.sleep(0)
            started_at = time.perf_counter()
    return b"[%b]" % b",".join(texts), len(texts)


def _repair(value: Mapping[str, Any]) -> bytes:
    try:
        text = _encoder.encode(value)
    except TypeError:  # a part of it is JSON already
        return b"".join(iterdumps(value))
    except ValueError:
        text = _encoder.encode(_without_nan(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


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
