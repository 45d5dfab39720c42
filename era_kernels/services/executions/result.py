"""Builds the result of a run from its events, in bounded memory; pure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.json_incremental import LARGE_BYTES, EncodedJson, estimate_size, iterencode
from era_kernels.models import (
    ClearOutput,
    Display,
    Done,
    ErrorEvent,
    Event,
    ExceptionInfo,
    JsonObject,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
    event_values,
)

# What is added between two yields to other tasks.
EVENTS_PER_YIELD = 64
CHARS_PER_YIELD = 1 << 16

RichEvent = Result | Display | UpdateDisplay
SizedJson = tuple[EncodedJson, int]  # the JSON of an output, and how many bytes it counts

_RESULT, _DISPLAY = "execute_result", "display_data"  # the types of rich outputs


@dataclass(slots=True)
class RunResult:
    """Holds everything that a run produced; fields known only at its end are None before.

    `results` are `{type, data, metadata}` as JSON; `error` is the server's error, if there was one.
    `truncated` says that something is left out, `is_stdout_whole` that it is not of stdout.
    """

    execution_id: str
    session_id: str
    stdout: str = ""
    stderr: str = ""
    results: list[EncodedJson] = field(default_factory=list)
    truncated: bool = False
    is_stdout_whole: bool = True
    exit_code: int | None = None
    execution_time_ms: float | None = None
    duration: str | None = None
    files_modified: int | None = None
    files_changed: JsonObject | None = None  # None: none, or not yet known
    data: JsonObject | None = None
    exception: ExceptionInfo | None = None
    state: str | None = None
    started_from: str | None = None
    kernel_generation: int | None = None
    queued_ms: float | None = None
    start_ms: float | None = None
    cause: str | None = None
    notices: list[str] | None = None
    error: ErrorEvent | None = None


class HeadTailBuffer:
    """Collects a text and keeps its first `max_bytes` bytes and the last `max_bytes // 2`."""

    __slots__ = ("_head", "_max_bytes", "_tail", "size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head = bytearray()
        self._tail = bytearray()  # of what comes after the head
        self.size = 0

    def add(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self.size += len(data)
        remaining = self._max_bytes - len(self._head)
        self._head += data[:remaining]
        self._tail += data[remaining:]
        del self._tail[: max(0, len(self._tail) - self._max_bytes // 2)]

    def text(self, max_bytes: int) -> str:
        """Returns the whole text if it has at most `max_bytes` bytes, else its head and tail.

        `max_bytes` may not exceed that of the buffer.
        """
        if self.size <= max_bytes:
            return self._head.decode("utf-8", "replace")
        half = max_bytes // 2
        marker = f"\n[... {self.size - 2 * half} bytes left out ...]\n"
        # A cut may fall inside a character: the rest of that character is dropped.
        return (
            self._head[:half].decode("utf-8", "ignore")
            + marker
            + self._last_bytes(half).decode("utf-8", "ignore")
        )

    def _last_bytes(self, size: int) -> bytes | bytearray:
        """Returns the last `size` bytes of the text."""
        if len(self._tail) < size:
            return (self._head + self._tail)[-size:]
        return self._tail[len(self._tail) - size :]


@dataclass(slots=True)
class _DisplayGroup:
    """The displays with one id: their number, their size together, and their last update."""

    count: int = 0
    size: int = 0
    last_update: EncodedJson = field(default_factory=lambda: EncodedJson([]))
    newer_indexes: list[int] = field(default_factory=list)  # outputs that came after the update


class RichOutputs:
    """Keeps the rich outputs of a run in order, updates them in place, and bounds their size.

    An output that does not fit is replaced by a note, or left out when the note does not fit
    either. An update costs the same however many outputs there are: a program may send any number
    of both. They are kept as JSON: small values take many times the size of their text, and stay
    for as long as the run lasts.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: list[
            EncodedJson | _DisplayGroup
        ] = []  # a group stands for each updated output
        self._groups: dict[str, _DisplayGroup] = {}
        self._clear_next = False
        self.size = 0
        self.has_omissions = False

    def add(
        self,
        kind: str,
        event: Result | Display,
        display_id: str | None,
        encoded: SizedJson | None = None,
    ) -> None:
        """Adds a rich output; `encoded` is its JSON, where it is known."""
        if self._clear_next:
            self.clear()
        fitted = self._fit(kind, event, self._max_bytes - self.size, encoded)
        if fitted is None:
            return
        item, size = fitted
        if display_id is not None:
            group = self._groups.setdefault(display_id, _DisplayGroup())
            group.count += 1
            group.size += size
            group.newer_indexes.append(len(self._items))
        self._items.append(item)
        self.size += size

    def update(self, event: UpdateDisplay, encoded: SizedJson | None = None) -> None:
        group = None if event.display_id is None else self._groups.get(event.display_id)
        if group is None:
            return
        remaining = (self._max_bytes - self.size + group.size) // group.count
        fitted = self._fit(_DISPLAY, event, remaining, encoded)
        if fitted is not None:
            group.last_update, item_size = fitted
            for index in group.newer_indexes:
                self._items[index] = group
            group.newer_indexes.clear()
            self.size += item_size * group.count - group.size
            group.size = item_size * group.count

    def clear(self, wait: bool = False) -> None:
        self._clear_next = wait
        if not wait:
            self._items.clear()
            self._groups.clear()
            self.size, self.has_omissions = 0, False

    def results(self) -> list[EncodedJson]:
        return [
            item.last_update if isinstance(item, _DisplayGroup) else item for item in self._items
        ]

    def _fit(
        self, kind: str, event: RichEvent, remaining: int, encoded: SizedJson | None
    ) -> tuple[EncodedJson, int] | None:
        """Returns the output, or a note in its place, that fits `remaining` bytes; and its size.

        None when not even the note fits.
        """
        item, size = encoded or _encode(_to_item(kind, event.data, event.metadata))
        if size > remaining:
            self.has_omissions = True
            note = {"text/plain": f"[... {size} bytes left out ...]"}
            item, size = _encode(_to_item(kind, note, {}))
        return (item, size) if size <= remaining else None


class ResultBuilder:
    """Takes a run's events one after the other; `result()` may be called at any time.

    `max_bytes` is what stdout, stderr and results may have together in the result; past it the
    result keeps head and tail and is marked `truncated`. Results go first, then the two streams
    share the rest.
    """

    def __init__(self, execution_id: str, session_id: str, max_bytes: int) -> None:
        self._ids = (execution_id, session_id)
        self._max_bytes = max_bytes
        self._stdout, self._stderr = HeadTailBuffer(max_bytes), HeadTailBuffer(max_bytes)
        self._rich_outputs = RichOutputs(max_bytes)
        self._error: ErrorEvent | None = None
        self._done: Done | None = None

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            self._add(event)

    async def add_cooperatively(self, events: Iterable[Event]) -> None:
        """Adds events on the event loop, and yields to other tasks when there is much to do."""
        length = 0
        for number, event in enumerate(events, 1):
            if (
                isinstance(event, Result | Display | UpdateDisplay)
                and estimate_size(event_values(event)) > LARGE_BYTES
            ):
                self._add(event, await run_cooperatively(self._encode_stepwise(event)))
            else:
                self._add(event)
            if isinstance(event, Stdout | Stderr):
                length += len(event.content)
            if number % EVENTS_PER_YIELD == 0 or length > CHARS_PER_YIELD:
                length = 0
                await asyncio.sleep(0)

    def _add(self, event: Event, encoded: SizedJson | None = None) -> None:
        match event:
            case Stdout():
                self._stdout.add(event.content)
            case Stderr():
                self._stderr.add(event.content)
            case Result():
                self._rich_outputs.add(_RESULT, event, None, encoded)
            case Display():
                self._rich_outputs.add(_DISPLAY, event, event.display_id, encoded)
            case UpdateDisplay():
                self._rich_outputs.update(event, encoded)
            case ClearOutput():
                self._rich_outputs.clear(event.wait)
            case ErrorEvent():
                self._error = event
            case Done():
                self._done = event

    def _encode_stepwise(self, event: RichEvent) -> Stepwise[SizedJson]:
        """Does the same as `_encode` in steps; what cannot fit is measured only."""
        kind = _RESULT if isinstance(event, Result) else _DISPLAY
        pieces: list[bytes] = []
        size = 0
        for piece in iterencode(_to_item(kind, event.data, event.metadata)):
            size += len(piece)
            if size > self._max_bytes:
                pieces.clear()
            elif piece:
                pieces.append(piece)
            yield
        return EncodedJson(pieces), size

    def result(self) -> RunResult:
        out, err = self._stdout, self._stderr
        remaining = max(0, self._max_bytes - self._rich_outputs.size)
        stderr_size = min(err.size, max(remaining // 2, remaining - out.size))
        stdout_size = remaining - stderr_size
        run_result = RunResult(
            *self._ids,
            stdout=out.text(stdout_size),
            stderr=err.text(stderr_size),
            results=self._rich_outputs.results(),
            truncated=out.size + err.size > remaining or self._rich_outputs.has_omissions,
            is_stdout_whole=out.size <= stdout_size,
            error=self._error,
        )
        if self._done is not None:
            for name in _DONE_FIELDS:
                setattr(run_result, name, getattr(self._done, name))
        return run_result


def _to_item(kind: str, data: JsonObject, metadata: JsonObject) -> JsonObject:
    return {"type": kind, "data": data, "metadata": metadata}


def _encode(item: JsonObject) -> SizedJson:
    """Returns the JSON of an output, and how many bytes it counts."""
    return EncodedJson([b"".join(iterencode(item))]), len(json.dumps(item))


_DONE_FIELDS = (
    "exit_code", "execution_time_ms", "duration", "files_modified", "files_changed", "data",
    "exception", "state", "started_from", "kernel_generation", "queued_ms", "start_ms", "cause",
    "notices",
)  # fmt: skip
