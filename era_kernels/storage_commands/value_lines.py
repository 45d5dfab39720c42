"""Writes the values of a namespace as lines of JSON, and reads them back.

A line is `{"key", "value", "metadata", "ttl"}`; `ttl`, the seconds that were left when it was
written, is there only for a key that expires.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from era_kernels.errors import KeyNotFound, StartError
from era_kernels.models import JsonObject
from era_kernels.storage_commands.kv_client import KVClient, Value
from era_kernels.storage_commands.row_formats import encode_line, read_lines

_FIELDS = {"key", "value", "metadata", "ttl"}


def export_values(values: KVClient, namespace: str, target: BinaryIO) -> int:
    """Writes all values of a namespace; returns how many. Raises EraError, StartError, OSError."""
    count = 0
    for key, _ in values.list(namespace):
        try:
            value = values.get(namespace, key)
        except KeyNotFound:
            continue  # deleted, or expired, since it was listed
        line: JsonObject = {"key": key, "value": value.text, "metadata": value.metadata}
        if value.ttl is not None:
            line["ttl"] = value.ttl
        target.write(encode_line(line))
        count += 1
    return count


def import_values(values: KVClient, namespace: str, source: BinaryIO) -> int:
    """Puts all values of an export, once all its lines were looked at; returns how many.

    Raises EraError; StartError with the number of a line that is wrong.
    """
    for _ in _parsed(read_lines(source)):
        pass
    source.seek(0)
    count = 0
    for key, value in _parsed(read_lines(source)):
        values.put(namespace, key, value)
        count += 1
    return count


def _parsed(lines: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, Value]]:
    for number, line in lines:
        problem = _problem_of(line)
        if problem:
            raise StartError(f"Line {number} is no value of an export: {problem}.")
        yield line["key"], Value(line["value"], line.get("metadata") or {}, line.get("ttl"))


def _problem_of(line: Any) -> str:
    """Returns what is wrong with a line; nothing for one that is right."""
    if not isinstance(line, dict):
        return "it is no object"
    if not isinstance(line.get("key"), str) or not line["key"]:
        return "its `key` is no text"
    if not isinstance(line.get("value"), str):
        return "its `value` is no text"
    if not isinstance(line.get("metadata"), dict | None):
        return "its `metadata` is no object"
    ttl = line.get("ttl")
    if ttl is not None and (
        isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < math.inf
    ):
        return "its `ttl` is no number above 0"
    unknown = line.keys() - _FIELDS
    return f"it has an unknown field {min(unknown)!r}" if unknown else ""
