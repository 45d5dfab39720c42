"""Encodes large JSON in short steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from era_kernels.json_incremental.encoded_json import EncodedJson
from era_kernels.json_incremental.sizes import CHUNK_CHARS, VALUE_OVERHEAD_BYTES, estimate_size
from era_kernels.json_incremental.utf8_text import Utf8Text

ITEMS_PER_BATCH = 128  # items of an array in a batch
# The estimated bytes up to which the items of a batch are encoded at once.
SMALL_BATCH_SIZE = 4 * ITEMS_PER_BATCH * VALUE_OVERHEAD_BYTES
TEXTS_PER_STEP = 16  # texts that are encoded in one step

_QUICK = frozenset({float, bool, type(None)})

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


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
    elif isinstance(value, Utf8Text):
        yield '"'
        for text in value.texts():
            yield _encoder.encode(text)[1:-1]
        yield '"'
    elif isinstance(value, EncodedJson):
        yield from value.texts()
    else:
        yield _scalar_text(value)


def _scalar_text(value: Any) -> str:
    try:
        return _encoder.encode(value)
    except ValueError:  # NaN or infinite
        return "null"


def _item_texts(items: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    """Yields the items of an array with commas between them; small items at once."""
    # Long integers are as slow as large texts.
    if (
        _QUICK.issuperset(map(type, items))
        or estimate_size(items, SMALL_BATCH_SIZE) <= SMALL_BATCH_SIZE
    ):
        try:
            yield _encoder.encode(items)[1:-1]
            return
        except (ValueError, TypeError):  # NaN or infinite; JSON already
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
