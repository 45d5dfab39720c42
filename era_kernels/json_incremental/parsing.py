"""Parses large JSON in short steps, by tolerant rules."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from era_kernels.concurrency.cooperative import Stepwise
from era_kernels.json_incremental.freeing import free_stepwise
from era_kernels.json_incremental.sizes import CHUNK_CHARS
from era_kernels.json_incremental.utf8_text import LONG_TEXT_BYTES, Utf8Text

JsonBytes = bytes | bytearray

FAST_DEPTH = 8  # levels that `_is_within_depth` counts quickly
MAX_NAME_BYTES = 1024 * 1024  # bytes of a name, which is joined and hashed in one step
BATCH_BYTES = 4096  # bytes of small values that are parsed in one step
LONE_VALUES = 16  # values that are parsed one by one where a batch was none

_SPACE = re.compile(rb"[ \t\n\r]{0,4096}+")
_STRING = re.compile(rb'"([^"\\\x00-\x1f]{0,4096}+)"')
# Whole characters of a string, as many as there are: an escape is matched as a whole or not at all.
_STRING_PART = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_HALF_ESCAPED_PAIR = re.compile(rb"(\\*)\\u[dD][89abAB][0-9a-fA-F]{2}\Z")  # the first of two
# Text of which the interpreter's own parser would make surrogates and infinities.
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_LONG_NUMBER = 300  # digits, or fewer
_SCALAR = re.compile(rb"(?:-?Infinity|NaN|true|false|null|-?[0-9][-+0-9.eE]{0,4999}+)")
_EMPTY = re.compile(rb"\[[ \t\n\r]*\]|\{[ \t\n\r]*\}")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INFINITE = (float("inf"), float("-inf"))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_CHANGE = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# Where a batch of small values may end, what is likely first.
_CUTS = (b"},", b"],", b'",', b",")


class SanitizedDict(dict[str, Any]):
    """A parsed object in which all text is valid Unicode, and all numbers are finite.

    The same holds for objects in arrays, though some of them are plain dicts.
    """


def iterparse(data: JsonBytes, max_values: int, max_depth: int) -> Stepwise[Any]:
    """Parses a JSON text in steps; the objects in the result are of type `SanitizedDict`.

    Bytes that are not UTF-8, and halves of surrogate pairs, become U+FFFD; NaN and the infinities
    become null. A text of LONG_TEXT_BYTES that is no name becomes a `Utf8Text`. Raises ValueError
    for malformed JSON, names of more than MAX_NAME_BYTES, more than `max_values` values and more
    than `max_depth` levels.
    """
    return Parser(data, max_values, max_depth).parse()


class Parser:
    """Parses one JSON text; `position` is where the unparsed bytes begin.

    What it makes of text, numbers and mistakes are its last methods, which stricter rules replace.
    """

    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    keeps_long_texts = True  # as `Utf8Text`
    NO_VALUE = object()  # where a container has begun or goes on

    def __init__(self, data: JsonBytes, max_values: int, max_depth: int) -> None:
        self.data = data
        self.position = 0
        self.room_until = len(data)  # the position from which `make_room` is called
        self._values_left = max_values
        self._max_depth = max_depth
        self._values_until_batch = 0  # values that are parsed one by one
        self._stack: list[tuple[list[Any] | dict[str, Any], str]] = []  # containers and their keys
        # The innermost open container; the outermost one is a list that gets the whole value.
        self._container: list[Any] | dict[str, Any] = []
        self._key = ""

    def parse(self) -> Stepwise[Any]:
        """Parses the text; where it fails, what was parsed by then is freed in steps, too."""
        whole: list[Any] = []
        try:
            return (yield from self._parse_into(whole))
        except Exception as error:
            error.__traceback__ = None  # its frames hold values
            parsed = [whole, self._container, *(container for container, _ in self._stack)]
            del whole
            self._container, self._stack = [], []
            yield from free_stepwise(parsed)
            del parsed
            raise

    def _parse_into(self, whole: list[Any]) -> Stepwise[Any]:
        self._container = whole
        yield from self._skip_space()
        while True:
            yield
            if self.position > self.room_until:
                yield from self.make_room()
            if self._stack and isinstance(self._container, list) and self._parse_batch(b"[%b]"):
                value = yield from self._parse_after_value()
                if value is self.NO_VALUE:
                    continue
            else:
                value = yield from self._parse_value()
            while value is not self.NO_VALUE:
                self._add_value(value)
                yield from self._skip_space()
                if self._container is whole:
                    if self.position < len(self.data):
                        self.fail("Extra data")
                    return whole[0]
                value = yield from self._parse_after_value()

    def _parse_value(self) -> Stepwise[Any]:
        """Parses the value that begins here; returns `NO_VALUE` where a container begins."""
        self._count_values(1)
        first = self.data[self.position : self.position + 1]
        if first == b'"':
            return (yield from self._parse_string())
        if first == b"[":
            return (yield from self._open_container([], b"]"))
        if first == b"{":
            return (yield from self._open_container(self.make_object(), b"}"))
        return self.parse_scalar()

    def _open_container(
        self, container: list[Any] | dict[str, Any], closing: bytes
    ) -> Stepwise[Any]:
        if len(self._stack) >= self._max_depth:
            self.fail_at_depth()
        self.position += 1
        yield from self._skip_space()
        if self.data[self.position : self.position + 1] == closing:
            self.position += 1
            return container
        self._stack.append((self._container, self._key))
        self._container = container
        if isinstance(container, dict):
            yield from self._parse_name()
        return self.NO_VALUE

    def _parse_after_value(self) -> Stepwise[Any]:
        """Parses what follows a value: a comma, or the end of its container, which is returned."""
        delimiter = self.data[self.position : self.position + 1]
        if delimiter == b",":
            self.position += 1
            yield from self._skip_space()
            if isinstance(self._container, dict):
                yield from self._parse_name()
            return self.NO_VALUE
        if delimiter != (b"}" if isinstance(self._container, dict) else b"]"):
            self.fail("Expecting ',' delimiter")
        self.position += 1
        value = self._container
        self._container, self._key = self._stack.pop()
        return value

    def _parse_name(self) -> Stepwise[None]:
        """Parses a name and its colon; before that, members of the object that are small."""
        while self._parse_batch(b"{%b}"):
            self.position += 1  # the comma behind them
            yield
            yield from self._skip_space()
            if self.position > self.room_until:
                yield from self.make_room()
        if self.data[self.position : self.position + 1] != b'"':
            self.fail("Expecting property name enclosed in double quotes")
        self._key = str((yield from self._parse_string(MAX_NAME_BYTES)))
        yield from self._skip_space()
        if self.data[self.position : self.position + 1] != b":":
            self.fail("Expecting ':' delimiter")
        self.position += 1
        yield from self._skip_space()

    def _add_value(self, value: Any) -> None:
        if isinstance(self._container, dict):
            self._container[self._key] = value
        else:
            self._container.append(value)

    def _skip_space(self) -> Stepwise[None]:
        while (found := _SPACE.match(self.data, self.position)) and found.end() > self.position:
            self.position = found.end()
            yield

    def _count_values(self, number: int) -> None:
        self._values_left -= number
        if self._values_left < 0:
            self.fail_at_values()

    def _parse_batch(self, whole: bytes) -> bool:
        """Parses as many small values or members as fit in a step, by the interpreter's parser.

        If the parser accepts them with brackets around them (`whole`), they were cut between two:
        after a cut inside a string or a container, that one would not end. Behind them is a comma.
        Returns False when none were parsed.
        """
        if self._values_until_batch:
            self._values_until_batch -= 1
            return False
        window = bytes(self.data[self.position : self.position + BATCH_BYTES])
        for comma in _CUTS:
            stop = window.rfind(comma) + len(comma) - 1
            if stop > 0 and self._decode_batch(window[:stop], whole):
                return True
        self._values_until_batch = LONE_VALUES
        return False

    def _decode_batch(self, batch: bytes, whole: bytes) -> bool:
        bare = batch
        if b'"' in batch:
            text = batch.replace(rb"\\", b"")
            bare = b"".join(text.replace(rb"\"", b"").split(b'"')[::2])
            if b"\\u" in text and _LONE_SURROGATE.search(_PAIR.sub(b"", text)):
                return False
        brackets = bare.translate(None, _NOT_BRACKETS)
        if not _is_within_depth(
            brackets, self._max_depth - len(self._stack)
        ) or _may_hold_large_number(bare):
            return False
        try:
            values = self.decoder.decode(self.decode_text(whole % batch))
        except ValueError:
            return False
        if not values:
            return False
        opened = bare.count(b"[") + bare.count(b"{") - len(_EMPTY.findall(bare))
        self._count_values(bare.count(b",") + opened + 1)
        if isinstance(self._container, dict):
            self._container.update(values)
        else:
            self._container += values
        self.position += len(batch)
        return True

    def _parse_string(self, max_bytes: int | None = None) -> Stepwise[str | Utf8Text]:
        short = _STRING.match(self.data, self.position)
        if short is not None:
            text = self.decode_text(short[1])
            self.position = short.end()
            return text
        begin = self.position
        self.position += 1
        found: list[str] = []
        while self.data[self.position : self.position + 1] != b'"':
            found.append(self._parse_string_part(begin))
            yield
            if max_bytes is not None:
                if self.position - begin > max_bytes:
                    self.fail("Too long property name starting at", begin)
            elif self.keeps_long_texts and self.position - begin > LONG_TEXT_BYTES:
                return (yield from self._parse_long_string(begin, found))
        self.position += 1
        return "".join(found)

    def _parse_long_string(self, begin: int, found: list[str]) -> Stepwise[str | Utf8Text]:
        """Parses the rest of a string, of which some was found; escapes may have made it short."""
        pieces: list[bytes] = []
        for text in found:
            pieces.append(text.encode())
            yield
        found.clear()
        while self.data[self.position : self.position + 1] != b'"':
            pieces.append(self._parse_string_part(begin).encode())
            yield
        self.position += 1
        whole = Utf8Text(pieces)
        return whole if len(whole) >= LONG_TEXT_BYTES else str(whole)

    def _parse_string_part(self, begin: int) -> str:
        """Parses the next characters of a string, which begins at that position."""
        found = _STRING_PART.match(self.data, self.position, self.position + CHUNK_CHARS)
        assert found is not None
        raw = found[0]
        if found.end() == self.position + CHUNK_CHARS or len(raw) > CHUNK_CHARS - 6:
            raw = raw[: len(raw) - _incomplete_bytes(raw)]
        if not raw:
            self.fail_in_string(begin)
        text = self.decode_text(raw)
        if "\\" in text:
            text = self.check_unescaped(self.decoder.decode(f'"{text}"'))
        self.position += len(raw)
        return text

    # ------------------------------------------------------------ the rules

    def make_room(self) -> Stepwise[None]:
        """Is called between two values or members: what was parsed may be taken out of containers.

        They stay themselves, and the position, too.
        """
        yield

    def make_object(self) -> dict[str, Any]:
        """Returns an object without members."""
        return SanitizedDict()

    def decode_text(self, raw: bytes | bytearray) -> str:
        """Returns the text of bytes."""
        return raw.decode("utf-8", "replace")

    def check_unescaped(self, text: str) -> str:
        """Returns a text that had escapes, without halves of surrogate pairs."""
        return text if text.isascii() else _SURROGATES.sub("\ufffd", text)

    def parse_scalar(self) -> Any:
        """Parses a number, or a constant."""
        found = _SCALAR.match(self.data, self.position)
        if found is None:
            self.fail("Expecting value")
        value = self.decoder.decode(found[0].decode("ascii"))
        self.position = found.end()
        return None if value in _INFINITE else value

    def fail(self, phrase: str, position: int | None = None) -> NoReturn:
        """Raises what reports a mistake at a position, by default at the current one."""
        raise ValueError(phrase)

    def fail_in_string(self, begin: int) -> NoReturn:
        """Raises what reports a mistake inside of a string."""
        self.fail("Unterminated string starting at", begin)

    def fail_at_depth(self) -> NoReturn:
        """Raises what reports too many levels."""
        raise ValueError("nested too deeply")

    def fail_at_values(self) -> NoReturn:
        """Raises what reports too many values."""
        raise ValueError("too many values")


def _may_hold_large_number(bare: bytes) -> bool:
    """Returns True if there is a number, outside of strings, that a float may have no room for."""
    block = _LONG_NUMBER // 2  # one such block of digits lies within each long number
    blocks = [bare[start : start + block] for start in range(0, len(bare) - block, block)]
    return any(map(bytes.isdigit, blocks)) or (
        (b"e" in bare or b"E" in bare) and _LARGE_EXPONENT.search(bare) is not None
    )


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
