"""Parses and encodes large JSON in short steps, so that other work can run in between.

The interpreter's own parser is quicker, but cannot be interrupted, and holds the interpreter's lock
also in a thread: an image of 50 MB or a list of a million items stops the server for as long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from era_kernels.concurrency.cooperative import Stepwise

JsonBytes = bytes | bytearray

LARGE_BYTES = 256 * 1024  # bytes from which a value is large
VALUE_OVERHEAD_BYTES = 128  # bytes that stand for the cost of a value beside its text
CHUNK_CHARS = 32 * 1024  # characters of a string in one step
FAST_DEPTH = 8  # levels that `_is_within_depth` counts quickly
BATCH_BYTES = 4096  # bytes of small values that are parsed in one step
ITEMS_PER_BATCH = 128  # items of an array in a batch
# The estimated bytes up to which the items of a batch are encoded at once.
SMALL_BATCH_SIZE = 4 * ITEMS_PER_BATCH * VALUE_OVERHEAD_BYTES
TEXTS_PER_STEP = 16  # texts that are encoded in one step

_SPACE = re.compile(rb"[ \t\n\r]{0,4096}+")
_STRING = re.compile(rb'"([^"\\\x00-\x1f]{0,4096}+)"')
# Whole characters of a string, as many as there are: an escape is matched as a whole or not at all.
_STRING_PART = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_HALF_ESCAPED_PAIR = re.compile(rb"(\\*)\\u[dD][89abAB][0-9a-fA-F]{2}\Z")  # the first of two
# Text of which the interpreter's own parser would make surrogates and infinities.
_UNSAFE_FOR_DECODER = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}|(?<![0-9])[0-9]{300}")
_SCALAR = re.compile(rb"(?:-?Infinity|NaN|true|false|null|-?[0-9][-+0-9.eE]{0,4999}+)")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INFINITE = (float("inf"), float("-inf"))
_CONTAINERS = (dict, list, tuple)
_SCALARS = frozenset({int, float, bool, type(None)})
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_CHANGE = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_decoder = json.JSONDecoder(parse_constant=lambda _: None)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class SanitizedDict(dict[str, Any]):
    """A parsed object in which all text is valid Unicode, and all numbers are finite.

    The same holds for objects in arrays, though some of them are plain dicts.
    """


def estimate_size(value: Any, max_size: int = LARGE_BYTES) -> int:
    """Estimates how much work a JSON value is, in bytes; stops soon after `max_size`."""
    total, level = 0, [value]
    while level:
        total += len(level) * VALUE_OVERHEAD_BYTES
        total += sum([len(item) for item in level if isinstance(item, str)])
        inner = [item for item in level if isinstance(item, _CONTAINERS) and item]
        inner_size = sum(map(len, inner)) * VALUE_OVERHEAD_BYTES
        if total + inner_size > max_size:
            return total + inner_size
        level = []
        for item in inner:
            level += item.values() if isinstance(item, dict) else item
            total += sum(map(len, item)) if isinstance(item, dict) else 0
    return total


# ---------------------------------------------------------------- writing


def iterencode(value: Any) -> Iterator[bytes]:
    """Yields compact JSON as UTF-8, in pieces each of which takes little time.

    Some pieces are empty, and only let other work run. NaN and the infinities become null, lone
    surrogates stay.
    """
    texts: list[str] = []
    size = 0
    for text in _texts(value):
        texts.append(text)
        size += len(text)
        if size >= CHUNK_CHARS:
            yield "".join(texts).encode("utf-8", "surrogatepass")
            texts.clear()
            size = 0
        elif len(texts) % TEXTS_PER_STEP == 0:
            yield b""
    yield "".join(texts).encode("utf-8", "surrogatepass")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _string_texts(value)
    elif isinstance(value, dict):
        opening = "{"
        for name, item in value.items():
            yield opening
            yield from _string_texts(name)
            yield ":"
            yield from _texts(item)
            opening = ","
        yield "{}" if opening == "{" else "}"
    elif isinstance(value, list | tuple):
        yield "["
        for start in range(0, len(value), ITEMS_PER_BATCH):
            if start:
                yield ","
            yield from _item_texts(value[start : start + ITEMS_PER_BATCH])
        yield "]"
    else:
        yield _scalar_text(value)


def _scalar_text(value: Any) -> str:
    try:
        return _encoder.encode(value)
    except ValueError:  # NaN or infinite
        return "null"


def _item_texts(items: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    """Yields the items of an array with commas between them; small items at once."""
    if (
        _SCALARS.issuperset(map(type, items))
        or estimate_size(items, SMALL_BATCH_SIZE) <= SMALL_BATCH_SIZE
    ):
        try:
            yield _encoder.encode(items)[1:-1]
            return
        except ValueError:  # NaN or infinite
            pass
    for number, item in enumerate(items):
        if number:
            yield ","
        yield from _texts(item)


def _string_texts(text: str) -> Iterator[str]:
    if len(text) <= CHUNK_CHARS:
        yield _encoder.encode(text)
        return
    yield '"'
    for start in range(0, len(text), CHUNK_CHARS):
        yield _encoder.encode(text[start : start + CHUNK_CHARS])[1:-1]
    yield '"'


# ---------------------------------------------------------------- reading


def iterparse(data: JsonBytes, max_values: int, max_depth: int) -> Stepwise[Any]:
    """Parses a JSON text in steps; the objects in the result are of type `SanitizedDict`.

    Bytes that are not UTF-8, and halves of surrogate pairs, become U+FFFD; NaN and the infinities
    become null. Raises ValueError for malformed JSON, more than `max_values` values and more than
    `max_depth` levels.
    """
    return _Parser(data, max_values, max_depth).parse()


class _Parser:
    """Parses one JSON text; `_position` is where the unparsed bytes begin."""

    def __init__(self, data: JsonBytes, max_values: int, max_depth: int) -> None:
        self._data = data
        self._position = 0
        self._values_left = max_values
        self._max_depth = max_depth
        self._values_until_batch = 0  # values that are parsed one by one
        self._stack: list[tuple[list[Any] | SanitizedDict, str]] = []  # containers and their keys
        # The innermost open container; the outermost one is a list that gets the whole value.
        self._container: list[Any] | SanitizedDict = []
        self._key = ""

    def parse(self) -> Stepwise[Any]:
        whole: list[Any] = []
        self._container = whole
        yield from self._skip_space()
        while True:
            yield
            if self._stack and self._parse_batch():
                value = yield from self._parse_after_value()
                if value is _NO_VALUE:
                    continue
            else:
                value = yield from self._parse_value()
            while value is not _NO_VALUE:
                self._add_value(value)
                yield from self._skip_space()
                if self._container is whole:
                    if self._position < len(self._data):
                        raise ValueError("there is more than one value")
                    return whole[0]
                value = yield from self._parse_after_value()

    def _parse_value(self) -> Stepwise[Any]:
        """Parses the value that begins here; returns `_NO_VALUE` where a container begins."""
        self._count_values(1)
        first = self._data[self._position : self._position + 1]
        if first == b'"':
            return (yield from self._parse_string())
        if first == b"[":
            return (yield from self._open_container([], b"]"))
        if first == b"{":
            return (yield from self._open_container(SanitizedDict(), b"}"))
        return self._parse_scalar()

    def _open_container(
        self, container: list[Any] | SanitizedDict, closing: bytes
    ) -> Stepwise[Any]:
        if len(self._stack) >= self._max_depth:
            raise ValueError("nested too deeply")
        self._position += 1
        yield from self._skip_space()
        if self._data[self._position : self._position + 1] == closing:
            self._position += 1
            return container
        self._stack.append((self._container, self._key))
        self._container = container
        if isinstance(container, SanitizedDict):
            yield from self._parse_name()
        return _NO_VALUE

    def _parse_after_value(self) -> Stepwise[Any]:
        """Parses what follows a value: a comma, or the end of its container, which is returned."""
        delimiter = self._data[self._position : self._position + 1]
        self._position += 1
        if delimiter == b",":
            yield from self._skip_space()
            if isinstance(self._container, SanitizedDict):
                yield from self._parse_name()
            return _NO_VALUE
        if delimiter != (b"}" if isinstance(self._container, SanitizedDict) else b"]"):
            raise ValueError("a comma or an end is missing")
        value = self._container
        self._container, self._key = self._stack.pop()
        return value

    def _parse_name(self) -> Stepwise[None]:
        if self._data[self._position : self._position + 1] != b'"':
            raise ValueError("a name is missing")
        self._key = yield from self._parse_string()
        yield from self._skip_space()
        if self._data[self._position : self._position + 1] != b":":
            raise ValueError("a colon is missing")
        self._position += 1
        yield from self._skip_space()

    def _add_value(self, value: Any) -> None:
        if isinstance(self._container, SanitizedDict):
            self._container[self._key] = value
        else:
            self._container.append(value)

    def _skip_space(self) -> Stepwise[None]:
        while (found := _SPACE.match(self._data, self._position)) and found.end() > self._position:
            self._position = found.end()
            yield

    def _count_values(self, number: int) -> None:
        self._values_left -= number
        if self._values_left < 0:
            raise ValueError("too many values")

    def _parse_scalar(self) -> Any:
        found = _SCALAR.match(self._data, self._position)
        if found is None:
            raise ValueError("no value")
        self._position = found.end()
        value = _decoder.decode(found[0].decode("ascii"))
        return None if value in _INFINITE else value

    def _parse_batch(self) -> bool:
        """Parses as many small values of an array as fit in a step, by the interpreter's parser.

        If the parser accepts the values with brackets around them, they were cut between two
        values: after a cut inside a string or a container, that one would not end. Returns False
        when no values were parsed.
        """
        if self._values_until_batch or not isinstance(self._container, list):
            self._values_until_batch -= self._values_until_batch > 0
            return False
        window = bytes(self._data[self._position : self._position + BATCH_BYTES])
        for comma in (b"},", b"],", b","):
            stop = window.rfind(comma) + len(comma) - 1
            if stop > 0 and self._decode_batch(window[:stop]):
                return True
        self._values_until_batch = 16  # values until the next attempt
        return False

    def _decode_batch(self, batch: bytes) -> bool:
        bare = batch
        if b'"' in batch:
            text = batch.replace(rb"\\", b"").replace(rb"\"", b"")
            bare = b"".join(text.split(b'"')[::2])
        brackets = bare.translate(None, _NOT_BRACKETS)
        if not _is_within_depth(
            brackets, self._max_depth - len(self._stack)
        ) or _UNSAFE_FOR_DECODER.search(batch):
            return False
        try:
            values = _decoder.decode(f"[{batch.decode('utf-8', 'replace')}]")
        except ValueError:
            return False
        if not values:
            return False
        self._count_values(bare.count(b",") + bare.count(b"[") + bare.count(b"{") + 1)
        self._container += values
        self._position += len(batch)
        return True

    def _parse_string(self) -> Stepwise[str]:
        short = _STRING.match(self._data, self._position)
        if short is not None:
            self._position = short.end()
            return short[1].decode("utf-8", "replace")
        self._position += 1
        found: list[str] = []
        while self._data[self._position : self._position + 1] != b'"':
            found.append(self._parse_string_part())
            yield
        self._position += 1
        return "".join(found)

    def _parse_string_part(self) -> str:
        """Parses the next characters of a string."""
        found = _STRING_PART.match(self._data, self._position, self._position + CHUNK_CHARS)
        assert found is not None
        raw = found[0]
        if found.end() == self._position + CHUNK_CHARS or len(raw) > CHUNK_CHARS - 6:
            raw = raw[: len(raw) - _incomplete_bytes(raw)]
        if not raw:
            raise ValueError("a string does not end, or holds what it must not")
        self._position += len(raw)
        text = raw.decode("utf-8", "replace")
        if "\\" not in text:
            return text
        text = _decoder.decode(f'"{text}"')
        return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


_NO_VALUE = object()


def _is_within_depth(brackets: bytes, max_depth: int) -> bool:
    """Returns True if brackets are nested at most `max_depth` deep."""
    counted = 0
    while brackets and counted < min(max_depth - 1, FAST_DEPTH):
        # A replacement removes the innermost brackets of a kind, and so one level at most.
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        counted += 2
    deep = accumulate(map(_DEPTH_CHANGE.__getitem__, brackets))
    return counted + max(deep, default=0) <= max_depth


def _incomplete_bytes(raw: JsonBytes) -> int:
    """Counts the bytes at the end of a part of a string that belong to an unfinished character."""
    half = _HALF_ESCAPED_PAIR.search(raw[-64:])
    if half is not None and len(half[1]) % 2 == 0:
        return 6
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:  # the first byte of a character shows how many bytes it has
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < size else 0
    return 0
