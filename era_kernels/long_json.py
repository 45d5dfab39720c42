"""JSON that is long, read and written in steps, so that nobody has to wait for all of it.

The interpreter's own parser is quicker, but cannot be interrupted, and keeps the interpreter's lock
also in a thread: an image of 50 MB or a list of a million items stops the server for as long. Here
each step is short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from era_kernels.steps import Steps

Text = bytes | bytearray

LONG = 256 * 1024  # bytes from which something is long
VALUE_COST = 128  # what a value costs beside its text, counted in bytes
PIECE = 32 * 1024  # characters of a string that one step takes
SHALLOW = 8  # levels that are counted quickly
RUN = 4096  # bytes of small values that one step takes
MANY = 128  # items that are written at once
SMALL = 4 * MANY * VALUE_COST  # what they may weigh
TEXTS = 16  # that one step writes

_SPACE = re.compile(rb"[ \t\n\r]{0,4096}+")
_STRING = re.compile(rb'"([^"\\\x00-\x1f]{0,4096}+)"')
# Whole characters of a string, as far as they go: an escape is taken as one or not at all.
_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_HALF = re.compile(rb"(\\*)\\u[dD][89abAB][0-9a-fA-F]{2}\Z")  # of a pair of escapes
# What the interpreter's own parser must not be given: it makes surrogates and infinities of it.
_RISKY = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}|(?<![0-9])[0-9]{300}")
_SCALAR = re.compile(rb"(?:-?Infinity|NaN|true|false|null|-?[0-9][-+0-9.eE]{0,4999}+)")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INFINITE = (float("inf"), float("-inf"))
_CONTAINERS = (dict, list, tuple)
_SCALARS = frozenset({int, float, bool, type(None)})
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEEPER = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_decoder = json.JSONDecoder(parse_constant=lambda _: None)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Clean(dict[str, Any]):
    """An object that was read here: all text in it is valid Unicode, and all numbers finite.

    Objects in arrays are as clean, but plain.
    """


def weigh(value: Any, most: int = LONG) -> int:
    """About how much work a JSON value is, in bytes; not counted much further than `most`."""
    total, level = 0, [value]
    while level:
        total += len(level) * VALUE_COST
        total += sum([len(item) for item in level if isinstance(item, str)])
        inner = [item for item in level if isinstance(item, _CONTAINERS) and item]
        within = sum(map(len, inner)) * VALUE_COST
        if total + within > most:
            return total + within
        level = []
        for item in inner:
            level += item.values() if isinstance(item, dict) else item
            total += sum(map(len, item)) if isinstance(item, dict) else 0
    return total


# ---------------------------------------------------------------- writing


def pieces(value: Any) -> Iterator[bytes]:
    """JSON as UTF-8, compact, in pieces of which each takes little time.

    Some are empty, only for a rest. NaN and the infinities are null, lone surrogates stay.
    """
    texts: list[str] = []
    size = 0
    for text in _texts(value):
        texts.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(texts).encode("utf-8", "surrogatepass")
            texts.clear()
            size = 0
        elif len(texts) % TEXTS == 0:
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
        for start in range(0, len(value), MANY):
            if start:
                yield ","
            yield from _item_texts(value[start : start + MANY])
        yield "]"
    else:
        yield _scalar_text(value)


def _scalar_text(value: Any) -> str:
    try:
        return _encoder.encode(value)
    except ValueError:  # NaN or infinite
        return "null"


def _item_texts(items: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    """The items of an array with commas between them; small ones at once."""
    if _SCALARS.issuperset(map(type, items)) or weigh(items, SMALL) <= SMALL:
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
    if len(text) <= PIECE:
        yield _encoder.encode(text)
        return
    yield '"'
    for start in range(0, len(text), PIECE):
        yield _encoder.encode(text[start : start + PIECE])[1:-1]
    yield '"'


# ---------------------------------------------------------------- reading


def reading(data: Text, values: int, depth: int) -> Steps[Any]:
    """Steps to the value that a JSON text stands for; its objects are `Clean`.

    Bytes that are not UTF-8, and halves of surrogate pairs, become U+FFFD; NaN and the infinities
    null. Raises ValueError for what is no JSON, has more values or is nested deeper.
    """
    return _Reader(data, values, depth).steps()


class _Reader:
    """`at` is where the rest begins."""

    def __init__(self, data: Text, values: int, depth: int) -> None:
        self._data = data
        self._at = 0
        self._left = values
        self._depth = depth
        self._slow = 0  # values that are taken one by one
        self._stack: list[tuple[list[Any] | Clean, str]] = []  # containers and their keys
        self._into: list[Any] | Clean = []  # the innermost; the first takes the whole value
        self._key = ""

    def steps(self) -> Steps[Any]:
        whole: list[Any] = []
        self._into = whole
        yield from self._skip()
        while True:
            yield
            if self._stack and self._run():
                value = yield from self._after()
                if value is _NOTHING:
                    continue
            else:
                value = yield from self._value()
            while value is not _NOTHING:
                self._put(value)
                yield from self._skip()
                if self._into is whole:
                    if self._at < len(self._data):
                        raise ValueError("there is more than one value")
                    return whole[0]
                value = yield from self._after()

    def _value(self) -> Steps[Any]:
        """The value that begins here; nothing when it is a container that begins."""
        self._count(1)
        mark = self._data[self._at : self._at + 1]
        if mark == b'"':
            return (yield from self._string())
        if mark == b"[":
            return (yield from self._open([], b"]"))
        if mark == b"{":
            return (yield from self._open(Clean(), b"}"))
        return self._scalar()

    def _open(self, container: list[Any] | Clean, closing: bytes) -> Steps[Any]:
        if len(self._stack) >= self._depth:
            raise ValueError("nested too deeply")
        self._at += 1
        yield from self._skip()
        if self._data[self._at : self._at + 1] == closing:
            self._at += 1
            return container
        self._stack.append((self._into, self._key))
        self._into = container
        if isinstance(container, Clean):
            yield from self._name()
        return _NOTHING

    def _after(self) -> Steps[Any]:
        """What stands behind a value: a comma, or the end of its container, which is a value."""
        mark = self._data[self._at : self._at + 1]
        self._at += 1
        if mark == b",":
            yield from self._skip()
            if isinstance(self._into, Clean):
                yield from self._name()
            return _NOTHING
        if mark != (b"}" if isinstance(self._into, Clean) else b"]"):
            raise ValueError("a comma or an end is missing")
        value = self._into
        self._into, self._key = self._stack.pop()
        return value

    def _name(self) -> Steps[None]:
        if self._data[self._at : self._at + 1] != b'"':
            raise ValueError("a name is missing")
        self._key = yield from self._string()
        yield from self._skip()
        if self._data[self._at : self._at + 1] != b":":
            raise ValueError("a colon is missing")
        self._at += 1
        yield from self._skip()

    def _put(self, value: Any) -> None:
        if isinstance(self._into, Clean):
            self._into[self._key] = value
        else:
            self._into.append(value)

    def _skip(self) -> Steps[None]:
        while (found := _SPACE.match(self._data, self._at)) and found.end() > self._at:
            self._at = found.end()
            yield

    def _count(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise ValueError("too many values")

    def _scalar(self) -> Any:
        found = _SCALAR.match(self._data, self._at)
        if found is None:
            raise ValueError("no value")
        self._at = found.end()
        value = _decoder.decode(found[0].decode("ascii"))
        return None if value in _INFINITE else value

    def _run(self) -> bool:
        """Take as many small values of this array as one step may, by the interpreter's parser.

        Values that it takes with brackets around them end where they seem to end: had they been
        cut inside of a string or a container, that would not end. False when none were taken.
        """
        if self._slow or not isinstance(self._into, list):
            self._slow -= self._slow > 0
            return False
        window = bytes(self._data[self._at : self._at + RUN])
        for comma in (b"},", b"],", b","):
            stop = window.rfind(comma) + len(comma) - 1
            if stop > 0 and self._taken(window[:stop]):
                return True
        self._slow = 16  # look again after so many values
        return False

    def _taken(self, run: bytes) -> bool:
        bare = run
        if b'"' in run:
            text = run.replace(rb"\\", b"").replace(rb"\"", b"")
            bare = b"".join(text.split(b'"')[::2])
        brackets = bare.translate(None, _BUT_BRACKETS)
        if not _shallow(brackets, self._depth - len(self._stack)) or _RISKY.search(run):
            return False
        try:
            values = _decoder.decode(f"[{run.decode('utf-8', 'replace')}]")
        except ValueError:
            return False
        if not values:
            return False
        self._count(bare.count(b",") + bare.count(b"[") + bare.count(b"{") + 1)
        self._into += values
        self._at += len(run)
        return True

    def _string(self) -> Steps[str]:
        short = _STRING.match(self._data, self._at)
        if short is not None:
            self._at = short.end()
            return short[1].decode("utf-8", "replace")
        self._at += 1
        found: list[str] = []
        while self._data[self._at : self._at + 1] != b'"':
            found.append(self._inside())
            yield
        self._at += 1
        return "".join(found)

    def _inside(self) -> str:
        """The next characters of a string."""
        found = _INSIDE.match(self._data, self._at, self._at + PIECE)
        assert found is not None
        raw = found[0]
        if found.end() == self._at + PIECE or len(raw) > PIECE - 6:
            raw = raw[: len(raw) - _torn(raw)]
        if not raw:
            raise ValueError("a string does not end, or holds what it must not")
        self._at += len(raw)
        text = raw.decode("utf-8", "replace")
        if "\\" not in text:
            return text
        text = _decoder.decode(f'"{text}"')
        return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


_NOTHING = object()


def _shallow(brackets: bytes, depth: int) -> bool:
    """Whether brackets are nested so deep at most."""
    most = 0
    while brackets and most < min(depth - 1, SHALLOW):
        # A replacement takes the innermost of a kind, and so one level at most.
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        most += 2
    deep = accumulate(map(_DEEPER.__getitem__, brackets))
    return most + max(deep, default=0) <= depth


def _torn(raw: Text) -> int:
    """How many bytes at the end of a part of a string belong to a character that goes on."""
    half = _HALF.search(raw[-64:])
    if half is not None and len(half[1]) % 2 == 0:
        return 6
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:  # the first byte of a character tells how many it has
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < size else 0
    return 0
