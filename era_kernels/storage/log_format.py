"""Encodes an event as one JSON line of an event log, and decodes it; pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from era_kernels import json_incremental
from era_kernels.concurrency.cooperative import Stepwise, run_in_slices
from era_kernels.models import (
    Display,
    Event,
    JsonObject,
    LoggedEvent,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
    event_from_json,
    event_to_json,
    event_values,
)

# Characters of text in one event; a longer text becomes several events. Encoding so many holds the
# interpreter's lock for half a millisecond, up to one and a half with many characters to escape.
MAX_TEXT_CHARS = 1 << 16
MAX_VALUES = 10_000_000  # values in a line that is read; a kernel's message has fewer
MAX_DEPTH = 1000  # levels in a line that is read; a kernel's message has fewer

_TEXT_EVENT = re.compile(rb'"type":"(?:stdout|stderr)"')
_RICH_EVENT = re.compile(
    rb'"type":"(?:%b)"' % b"|".join(cls.type.encode() for cls in (Result, Display, UpdateDisplay))
)
_OPAQUE = frozenset({"data", "metadata"})  # of rich events: their items are only passed on
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class LineInfo:
    """The facts that the index needs about a line: its bytes, and its bytes of text by stream."""

    size: int
    stream: str | None = None
    text_size: int = 0


@dataclass(frozen=True, slots=True)
class LogHeader:
    """The first line of a log, which readers do not get: the code, never its variables."""

    code: str
    language: str
    time: datetime


def split_long_texts(events: Iterable[Event]) -> Iterator[Event]:
    """Yields the events with long texts cut, so that no reader needs a whole text in memory."""
    for event in events:
        if isinstance(event, Stdout | Stderr) and len(event.content) > MAX_TEXT_CHARS:
            for start in range(0, len(event.content), MAX_TEXT_CHARS):
                yield replace(event, content=event.content[start : start + MAX_TEXT_CHARS])
        else:
            yield event


def encode(recorded: LoggedEvent) -> tuple[bytes, LineInfo]:
    """Returns an event's line, ending in a newline, and the facts that the index needs."""
    event = recorded.event
    values = {
        "seq": recorded.seq,
        "time": recorded.time.isoformat(),
        **event_to_json(event),
    }
    data = _encode_object(values)
    if isinstance(event, Stdout | Stderr):
        return data, LineInfo(len(data), event.type, len(encode_text(event.content)))
    return data, LineInfo(len(data))


def is_long(event: Event) -> bool:
    """Returns True if an event's line must be encoded in steps; long texts are cut instead."""
    return json_incremental.estimate_size(event_values(event)) > json_incremental.LARGE_BYTES


def text_length(events: Iterable[Event]) -> int:
    """Returns the characters of text in all events together."""
    return sum(len(event.content) for event in events if isinstance(event, Stdout | Stderr))


def iterencode(recorded: LoggedEvent) -> Iterator[bytes]:
    """Yields the line of an event that `is_long`, in pieces that take little time each."""
    values = {"seq": recorded.seq, "time": recorded.time.isoformat()}
    yield from json_incremental.iterencode({**values, **event_to_json(recorded.event)})
    yield b"\n"


def encode_header(header: LogHeader) -> bytes:
    """Returns the line of a header, which has sequence number 0; is called in a thread."""
    time = header.time.isoformat()
    values = {"seq": 0, "time": time, "code": header.code, "language": header.language}
    if len(header.code) <= json_incremental.LARGE_BYTES:
        return _encode_object(values)
    return run_in_slices(_join_stepwise(json_incremental.iterencode(values))) + b"\n"


def decode(line: bytes) -> LoggedEvent:
    """Decodes a line of `encode`. Raises ValueError for any other line."""
    is_large = len(line) > json_incremental.LARGE_BYTES and not _TEXT_EVENT.search(line, 0, 200)
    values = _decode_object_in_slices(line) if is_large else _decode_object(line)
    try:
        time = datetime.fromisoformat(values["time"])
        return LoggedEvent(values["seq"], time, event_from_json(values))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no event: {error}") from error


def decode_header(line: bytes) -> LogHeader:
    """Decodes a line of `encode_header`. Raises ValueError for any other line."""
    values = _decode_object(line)
    try:
        time = datetime.fromisoformat(values["time"])
        return LogHeader(values["code"], values["language"], time)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no header: {error}") from error


def measure(line: bytes, seq: int) -> LineInfo:
    """Returns the facts that the index needs about a line.

    Raises ValueError unless the line holds event number `seq`.
    """
    recorded = decode(line)
    if recorded.seq != seq:
        raise ValueError(f"event {recorded.seq} stands in the place of {seq}")
    event = recorded.event
    if isinstance(event, Stdout | Stderr):
        return LineInfo(len(line), event.type, len(encode_text(event.content)))
    return LineInfo(len(line))


def decode_text(line: bytes, stream: str) -> bytes:
    """Returns the text of that stream in a line: UTF-8, empty where the line holds none."""
    if b'"type":"%b"' % stream.encode() not in line[:200]:
        return b""
    values = _decode_object(line)
    # Rich output may have the same text near the beginning of its line.
    return encode_text(values["content"]) if values["type"] == stream else b""


def _join_stepwise(pieces: Iterable[bytes]) -> Stepwise[bytes]:
    found = []
    for piece in pieces:
        found.append(piece)
        yield
    return b"".join(found)


def encode_text(content: str) -> bytes:
    """Encodes a text as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    return content.encode("utf-8", "replace")


def _encode_object(values: JsonObject) -> bytes:
    # A program may print half a surrogate pair: json.loads reads it as it was.
    return _encoder.encode(values).encode("utf-8", "surrogatepass") + b"\n"


def _decode_object(line: bytes) -> JsonObject:
    try:
        values: Any = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _check_object(values)


def _decode_object_in_slices(line: bytes) -> JsonObject:
    """Decodes a long line in a thread, and lets other threads run in between."""
    names = _OPAQUE if _RICH_EVENT.search(line, 0, 200) else frozenset()
    steps = json_incremental.iterparse_encoding_items(line, MAX_VALUES, MAX_DEPTH, names)
    return _check_object(run_in_slices(steps))


def _check_object(values: object) -> JsonObject:
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values
