"""Writes rows as a table to look at, as CSV or as lines of JSON, and reads the last two back.

In CSV nothing is lost: a bare cell is a number, null (nothing at all) or a blob (`x'00ff'`) where
it looks like one, and a cell in quotes is always text. Lines of JSON hold blobs as
`{"base64": "…"}`, as D1 does.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from era_kernels.errors import StartError

_BLOB = re.compile(r"[xX]'((?:[0-9A-Fa-f]{2})*)'")
_NEEDS_QUOTES = re.compile(r'[",\r\n]|\A[ \t]|[ \t]\Z|\A\ufeff')
_CELL = re.compile(r'"((?:[^"]|"")*)"(,|\r\n|\n|\r|\Z)|([^,"\r\n]*)(,|\r\n|\n|\r|\Z)')
_MAX_INTEGER = 2**63 - 1

Row = Mapping[str, Any]


# ---------------------------------------------------------------- to look at


def format_table(rows: Sequence[Row]) -> str:
    """Returns rows in columns, under their names; numbers stand to the right.

    >>> print(format_table([{"name": "Ada", "age": 36}, {"name": None, "age": 5}]))
    name  age
    ----  ---
    Ada    36
    NULL    5
    """
    if not rows:
        return ""
    names = list(rows[0])
    shown = [[_shown(row[name]) for name in names] for row in rows]
    titles = [_printable(name) for name in names]
    widths = [max(map(len, column)) for column in zip(titles, *shown, strict=True)]
    lines = [titles, ["-" * width for width in widths], *shown]
    kinds: list[Row] = [{}, {}, *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if isinstance(row.get(name), int | float) else cell.ljust(width)
            for cell, width, name in zip(line, widths, names, strict=True)
        ).rstrip()
        for line, row in zip(lines, kinds, strict=True)
    )


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    return _printable(value if isinstance(value, str) else _bare(value))


def _printable(text: str) -> str:
    """Returns a text without what would move the cursor of a terminal, or speak to it."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


# ---------------------------------------------------------------- CSV


def encode_csv(cells: Iterable[Any]) -> bytes:
    """Returns a line of CSV.

    >>> encode_csv([1, "1", None, "", "a,b", {"base64": "AP8="}])
    b"1,\\"1\\",,\\"\\",\\"a,b\\",x'00ff'\\n"
    """
    return (",".join(map(_encode_cell, cells)) + "\n").encode()


def _encode_cell(value: Any) -> str:
    if not isinstance(value, str):
        return _bare(value)
    if _NEEDS_QUOTES.search(value) or parse_cell(value) != value:
        return '"' + value.replace('"', '""') + '"'
    return value


def _bare(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"x'{base64.b64decode(value['base64']).hex()}'"
    return repr(value)


def parse_cell(text: str) -> Any:
    """Returns what a bare cell is: a number only in the one form that has it back as it was.

    >>> [parse_cell(text) for text in ["7", "007", "1.5", "1.50", "", "nan", "x'00'"]]
    [7, '007', 1.5, '1.50', None, 'nan', {'base64': 'AA=='}]
    """
    if not text:
        return None
    blob = _BLOB.fullmatch(text)
    if blob:
        return {"base64": base64.b64encode(bytes.fromhex(blob[1])).decode()}
    return parse_number(text)


def parse_number(text: str) -> int | float | str:
    """Returns a number for a text that is one in its plain form, else the text."""
    if len(text) > 32 or not text.isascii():
        return text
    for type_ in (int, float):
        try:
            number: int | float = type_(text)
        except ValueError:
            continue
        is_held = math.isfinite(number) if type_ is float else is_storable(number)
        if is_held and repr(number) == text:
            return number
    return text


def read_csv(source: BinaryIO) -> Iterator[tuple[int, Row]]:
    """Yields the number of each row's first line, and the row. Raises StartError."""
    records = _records(_decoded(source))
    first = next(records, None)
    if first is None:
        raise StartError("The file is empty: the first line must name the columns.")
    names = ["" if name is None else name for name in first[2]]
    if len(set(names)) < len(names) or "" in names:
        raise StartError("The first line must name the columns, each by a name of its own.")
    for number, cells, texts in records:
        if texts == [""] and cells == [None] and len(names) > 1:
            continue  # a blank line
        if len(cells) != len(names):
            raise StartError(
                f"Line {number} has {len(cells)} cells, and there are {len(names)} columns."
            )
        yield number, dict(zip(names, cells, strict=True))


def _records(text: str) -> Iterator[tuple[int, list[Any], list[str]]]:
    """Yields the line, the cells as values and the cells as texts of each record."""
    number, position = 1, 0
    while position < len(text):
        values: list[Any] = []
        texts: list[str] = []
        start, end = number, ","
        while end == ",":
            found = _CELL.match(text, position)
            if found is None:
                raise StartError(
                    f"Line {start} has a quote that is not closed, or in a wrong place."
                )
            position = found.end()
            quoted, bare = found[1], found[3]
            end = found[2] if quoted is not None else found[4]
            texts.append(bare if quoted is None else quoted.replace('""', '"'))
            values.append(parse_cell(bare) if quoted is None else texts[-1])
            number += (quoted or "").count("\n") + (end not in ("", ","))
        yield start, values, texts


# ---------------------------------------------------------------- lines of JSON


def encode_line(value: Any) -> bytes:
    """Returns a line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_lines(source: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Yields the number and the value of each line that is not blank. Raises StartError."""
    for number, line in enumerate(source, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            try:
                value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
                json.dumps(value, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise StartError(f"Line {number} is no JSON in UTF-8 ({error}).") from error
            yield number, value


def read_rows(source: BinaryIO) -> Iterator[tuple[int, Row]]:
    """Yields the number of each line and its row. Raises StartError."""
    for number, line in read_lines(source):
        if not isinstance(line, dict):
            raise StartError(f"Line {number} is no object, with a value for each column.")
        for name, value in line.items():
            if not is_storable(value):
                raise StartError(
                    f"Line {number} has a value at {name!r} that D1 cannot hold: it holds text, "
                    "numbers (integers of 64 bits), booleans, null and "
                    'blobs as {"base64": "…"}.'
                )
        yield number, line


def is_storable(value: Any) -> bool:
    """Returns whether D1 can hold a value of JSON."""
    if isinstance(value, int):
        return -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER
    if isinstance(value, dict):
        try:
            base64.b64decode(value["base64"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return False
        return len(value) == 1
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _decoded(source: BinaryIO) -> str:
    try:
        return source.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StartError(f"The file is no UTF-8 (byte {error.start}).") from error
