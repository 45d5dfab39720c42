"""Estimates how much work a JSON value is."""

from __future__ import annotations

from typing import Any

from era_kernels.json_incremental.encoded_json import EncodedJson
from era_kernels.json_incremental.utf8_text import Utf8Text

LARGE_BYTES = 256 * 1024  # bytes from which a value is large
VALUE_OVERHEAD_BYTES = 128  # bytes that stand for the cost of a value beside its text
CHUNK_CHARS = 32 * 1024  # characters of a string in one step

_CONTAINERS = (dict, list, tuple)
_TEXTS = (str, Utf8Text)


def estimate_size(
    value: Any, max_size: int = LARGE_BYTES, *, overhead: int = VALUE_OVERHEAD_BYTES
) -> int:
    """Estimates how much work a JSON value is, in bytes; stops soon after `max_size`.

    `overhead` is what a value counts beside its text; with 2 the result is what its JSON takes at
    least, and 1 byte.
    """
    total, level = 0, [value]
    while level:
        total += len(level) * overhead
        inner = []
        for item in level:
            if isinstance(item, _TEXTS):
                total += len(item)
            elif isinstance(item, _CONTAINERS):
                if item:
                    inner.append(item)
            elif isinstance(item, EncodedJson):
                total += max(len(item), LARGE_BYTES + 1)  # it is written in steps, however short
            elif type(item) is int:
                # An integer of n bits has at least n / 4 digits; to write many of them takes long.
                total += item.bit_length() >> 2
        inner_size = sum(map(len, inner)) * overhead
        if total + inner_size > max_size:
            return total + inner_size
        level = []
        for item in inner:
            level += item.values() if isinstance(item, dict) else item
            total += sum(map(len, item)) if isinstance(item, dict) else 0
    return total
