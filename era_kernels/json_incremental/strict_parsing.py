"""Parses large JSON in short steps, by strict rules; bombs are refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from era_kernels.concurrency.cooperative import Stepwise
from era_kernels.errors import InvalidJson, TooLarge
from era_kernels.json_incremental.parsing import JsonBytes, Parser

MAX_DIGITS = 4300  # of an integer: the interpreter's own limit, for it takes quadratic time
STEP_BYTES = 256 * 1024  # bytes in which the end of a line is looked for in one step

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(
    rb"(-?(?:0|[1-9][0-9]{0,%(max)d}+))(\.[0-9]{1,%(max)d}+)?([eE][-+]?[0-9]{1,%(max)d}+)?"
    % {b"max": MAX_DIGITS}
)
_CONSTANT = re.compile(rb"true|false|null|NaN|-?Infinity")
_CONSTANTS = {b"true": True, b"false": False, b"null": None}
_CONTINUATIONS = bytes(range(0x80, 0xC0))  # the bytes of a character of UTF-8 after its first
_HINT = "Send a JSON object as the body."
_CONTROL_HINT = r"Inside a string, the end of a line is written \n and a tab \t."


def reject_constant(text: str) -> NoReturn:
    """Raises the error for NaN and the infinities, which JSON does not know."""
    raise InvalidJson(f"The body is not valid JSON: {text} is no JSON value.")


def parse_finite_float(text: str) -> float:
    """Returns the number. Raises InvalidJson for one that a float has no room for."""
    value = float(text)
    if math.isinf(value):
        raise InvalidJson("The body holds a number that is too large for a JSON number.")
    return value


def too_many_digits() -> InvalidJson:
    """Returns the error for an integer that would take too long to convert."""
    return InvalidJson("The body holds an integer with too many digits.")


def no_utf8() -> InvalidJson:
    """Returns the error for bytes that are no text."""
    return InvalidJson("The body is not valid JSON: it is not UTF-8.", hint=_HINT)


def lone_surrogate() -> InvalidJson:
    """Returns the error for half a surrogate pair."""
    return InvalidJson("The body holds a lone surrogate, which is no character.")


def too_deep(max_depth: int) -> TooLarge:
    """Returns the error for too many levels."""
    return TooLarge(f"The body is nested too deeply: {max_depth} levels are allowed.")


def malformed(phrase: str, line: int, column: int) -> InvalidJson:
    """Returns the error that names the place of a mistake, once: some phrases end in `at`."""
    phrase = phrase.removesuffix(" at")
    is_control = phrase.startswith("Invalid control character")
    return InvalidJson(
        f"The body is not valid JSON: {phrase} at line {line}, column {column}.",
        hint=_CONTROL_HINT if is_control else _HINT,
    )


def iterparse_strictly(
    data: JsonBytes, max_values: int, max_depth: int, *, numbers_as_text: bool = False
) -> Stepwise[Any]:
    """Parses a JSON text in steps; with `numbers_as_text` each number is the text in the body.

    Names and items together are the values, of which there may be `max_values`. Of names that
    occur twice the last one counts. Raises InvalidJson, and TooLarge beyond the bounds.
    """
    parser = (_TextParser if numbers_as_text else _StrictParser)(data, max_values + 1, max_depth)
    if data[:3] == _BYTE_ORDER_MARK:
        parser.position = 3
    parser.max_values, parser.max_depth = max_values, max_depth
    try:
        return (yield from parser.parse())
    except _Mistake as mistake:
        line, column = yield from _place(data, mistake.position)
        raise malformed(mistake.phrase, line, column) from None


class _Mistake(Exception):
    """Reports what is wrong, and at which byte."""

    def __init__(self, phrase: str, position: int) -> None:
        super().__init__(phrase)
        self.phrase, self.position = phrase, position


def _refuse(_: str) -> NoReturn:
    # Parsed once more, value by value, it is refused in the right words.
    raise ValueError


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError
    return value


class _StrictParser(Parser):
    """Parses a body by the rules of `json_codec.loads_object`."""

    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_parse_finite)
    keeps_long_texts = False
    parse_integer: Callable[[str], Any] = staticmethod(int)
    parse_float: Callable[[str], Any] = staticmethod(parse_finite_float)
    max_values = max_depth = 0

    def make_object(self) -> dict[str, Any]:
        return {}

    def decode_text(self, raw: bytes | bytearray) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise no_utf8() from None

    def check_unescaped(self, text: str) -> str:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise lone_surrogate() from None
        return text

    def parse_scalar(self) -> Any:
        constant = _CONSTANT.match(self.data, self.position)
        if constant is not None:
            if constant[0] not in _CONSTANTS:
                reject_constant(constant[0].decode())
            self.position = constant.end()
            return _CONSTANTS[bytes(constant[0])]
        number = _NUMBER.match(self.data, self.position)
        if number is None:
            self.fail("Expecting value")
        if self.data[number.end() : number.end() + 1].isdigit() and len(number[0]) > MAX_DIGITS:
            raise too_many_digits()
        self.position = number.end()
        text = number[0].decode()
        if number[2] is not None or number[3] is not None:
            return self.parse_float(text)
        if len(number[1].lstrip(b"-")) > MAX_DIGITS:
            raise too_many_digits()
        return self.parse_integer(text)

    def fail(self, phrase: str, position: int | None = None) -> NoReturn:
        raise _Mistake(phrase, self.position if position is None else position)

    def fail_in_string(self, begin: int) -> NoReturn:
        rest = bytes(self.data[self.position : self.position + 6])
        if rest and rest[0] < 0x20:
            self.fail("Invalid control character at")
        if rest[:1] == b"\\" and rest[1:2] == b"u":
            self.fail("Invalid \\uXXXX escape", self.position + 1)
        if rest[:1] == b"\\" and len(rest) > 1:
            self.fail("Invalid \\escape")
        self.fail("Unterminated string starting at", begin)

    def fail_at_depth(self) -> NoReturn:
        raise too_deep(self.max_depth)

    def fail_at_values(self) -> NoReturn:
        raise TooLarge(
            f"The body holds too many names and items: {self.max_values} are allowed.",
            hint="Send them in several requests, or as a file.",
        )


class _TextParser(_StrictParser):
    """Parses a body, with each number as the text in the body."""

    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=str, parse_int=str)
    parse_integer = parse_float = staticmethod(str)


def _place(data: JsonBytes, position: int) -> Stepwise[tuple[int, int]]:
    """Finds the line and the column, in characters, of a byte of the text; both begin with 1."""
    line, column = 1, 1
    start = 3 if data[:3] == _BYTE_ORDER_MARK else 0
    for begin in range(start, position, STEP_BYTES):
        piece = bytes(data[begin : min(begin + STEP_BYTES, position)])
        lines = piece.count(b"\n")
        if lines:
            line, column = line + lines, 1
            piece = piece[piece.rindex(b"\n") + 1 :]
        column += len(piece.translate(None, _CONTINUATIONS))
        yield
    return line, column
