"""Encodes rows as JSON while they are fetched, within bounds of rows and bytes."""

from __future__ import annotations

import base64
import json
import math
import sqlite3
from collections.abc import Sequence
from typing import Any

from era_kernels.storage.d1.worker.outcomes import Outcome, RequestFailed

_encode = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
    default=lambda blob: {"base64": base64.b64encode(blob).decode()},
).encode


class RowBudget:
    """Counts what the statements of one request return together."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._rows = max_rows
        self._bytes = max_bytes

    def take(self, size: int) -> None:
        """Counts one row of so many bytes. Raises RequestFailed past a bound."""
        self._rows -= 1
        self._bytes -= size
        if self._rows < 0:
            raise RequestFailed(Outcome.TOO_MANY_ROWS)
        if self._bytes < 0:
            raise RequestFailed(Outcome.RESULT_TOO_LARGE)


def encode_rows(cursor: sqlite3.Cursor, budget: RowBudget) -> tuple[bytes, int]:
    """Returns the rows as a JSON array of objects, and how many they are."""
    names = unique_names([column[0] for column in cursor.description])
    rows: list[bytes] = []
    for row in cursor:
        encoded = _encode_row(dict(zip(names, row, strict=True)))
        budget.take(len(encoded) + 1)
        rows.append(encoded)
    return b"[%b]" % b",".join(rows), len(rows)


def _encode_row(row: dict[str, Any]) -> bytes:
    try:
        return _encode(row).encode()
    except ValueError:  # infinity, which is no JSON number
        return _encode({name: _without_infinity(value) for name, value in row.items()}).encode()


def _without_infinity(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unique_names(names: Sequence[str]) -> list[str]:
    """Returns the names of columns, with `_1`, `_2` and so on after those that came before.

    >>> unique_names(["a", "a", "b", "a", "a_1"])
    ['a', 'a_1', 'b', 'a_2', 'a_1_1']
    """
    if len(set(names)) == len(names):
        return list(names)
    seen: dict[str, None] = {}
    numbers: dict[str, int] = {}
    for name in names:
        unique = name
        while unique in seen:
            numbers[name] = numbers.get(name, 0) + 1
            unique = f"{name}_{numbers[name]}"
        seen[unique] = None
    return list(seen)
