"""One line of an event log: an event as JSON, and back; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from era_kernels import long_json
from era_kernels.models import (
    Event,
    JsonObject,
    Recorded,
    Stderr,
    Stdout,
    event_from_json,
    event_to_json,
)
from era_kernels.steps import in_thread

PIECE = 1 << 20  # characters of text in one event; what is longer becomes several events
VALUES = 10_000_000  # in a line that is read; a kernel's message has fewer
DEPTH = 1000  # of a line; the same

_TEXT = re.compile(rb'"type":"(?:stdout|stderr)"')
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Line:
    """A line as the index counts it: its bytes, and how much text of which stream it holds."""

    size: int
    stream: str | None = None
    text_size: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a log, which readers do not get: what was asked, never its variables."""

    code: str
    language: str
    time: datetime


def pieces(events: Iterable[Event]) -> Iterator[Event]:
    """The same events with long texts cut, so that no reader needs a whole one in memory."""
    for event in events:
        if isinstance(event, Stdout | Stderr) and len(event.content) > PIECE:
            for start in range(0, len(event.content), PIECE):
                yield replace(event, content=event.content[start : start + PIECE])
        else:
            yield event


def encode(recorded: Recorded) -> tuple[bytes, Line]:
    """An event's line, ending in a newline, and what the index counts of it."""
    event = recorded.event
    values = {
        "seq": recorded.seq,
        "time": recorded.time.isoformat(),
        **event_to_json(event),
    }
    data = _encoded(values)
    if isinstance(event, Stdout | Stderr):
        return data, Line(len(data), event.type, len(text_of(event.content)))
    return data, Line(len(data))


def is_long(event: Event) -> bool:
    """Whether its line is to be encoded in steps; a long text is cut instead."""
    return long_json.weigh(getattr(event, "data", None)) > long_json.LONG


def take_long(events: Sequence[Event]) -> bool:
    """Whether writing them keeps a thread for long."""
    text = sum(len(event.content) for event in events if isinstance(event, Stdout | Stderr))
    return text > 4 * PIECE or any(map(is_long, events))


def encoding(recorded: Recorded) -> Iterator[bytes]:
    """The line of an event that `is_long`, in pieces of which each takes little time."""
    values = {"seq": recorded.seq, "time": recorded.time.isoformat()}
    yield from long_json.pieces({**values, **event_to_json(recorded.event)})
    yield b"\n"


def encode_header(header: Header) -> bytes:
    """The line with sequence number 0."""
    time = header.time.isoformat()
    return _encoded({"seq": 0, "time": time, "code": header.code, "language": header.language})


def decode(line: bytes) -> Recorded:
    """The inverse of `encode`. Raises ValueError for what is no event's line."""
    long = len(line) > long_json.LONG and not _TEXT.search(line, 0, 200)
    values = _decoded_slowly(line) if long else _decoded(line)
    try:
        time = datetime.fromisoformat(values["time"])
        return Recorded(values["seq"], time, event_from_json(values))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no event: {error}") from error


def decode_header(line: bytes) -> Header:
    """The inverse of `encode_header`. Raises ValueError for what is no header."""
    values = _decoded(line)
    try:
        time = datetime.fromisoformat(values["time"])
        return Header(values["code"], values["language"], time)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no header: {error}") from error


def measure(line: bytes, seq: int) -> Line:
    """What the index counts of an event's line. Raises ValueError unless it is number `seq`."""
    recorded = decode(line)
    if recorded.seq != seq:
        raise ValueError(f"event {recorded.seq} stands in the place of {seq}")
    event = recorded.event
    if isinstance(event, Stdout | Stderr):
        return Line(len(line), event.type, len(text_of(event.content)))
    return Line(len(line))


def text_in(line: bytes, stream: str) -> bytes:
    """The text of that stream in a line: UTF-8, empty where the line holds none."""
    if b'"type":"%b"' % stream.encode() not in line[:200]:
        return b""
    values = _decoded(line)
    # Rich output may have the same words at its beginning.
    return text_of(values["content"]) if values["type"] == stream else b""


def text_of(content: str) -> bytes:
    """A text as UTF-8; a lone surrogate, which no UTF-8 can hold, becomes a question mark."""
    return content.encode("utf-8", "replace")


def _encoded(values: JsonObject) -> bytes:
    # A program may print half a surrogate pair: json.loads takes it back as it is.
    return _encoder.encode(values).encode("utf-8", "surrogatepass") + b"\n"


def _decoded(line: bytes) -> JsonObject:
    try:
        values: Any = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _object(values)


def _decoded_slowly(line: bytes) -> JsonObject:
    """What a thread does with a long line, so that others have the interpreter in between."""
    return _object(in_thread(long_json.reading(line, VALUES, DEPTH)))


def _object(values: object) -> JsonObject:
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values
