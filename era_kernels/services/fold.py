"""The fold: a run's events become one answer, with bounded memory; pure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.json_incremental import LARGE_BYTES, estimate_size, iterencode
from era_kernels.models import (
    ClearOutput,
    Display,
    Done,
    Event,
    ExceptionInfo,
    Failure,
    JsonObject,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
)

Rich = Result | Display | UpdateDisplay


@dataclass(slots=True)
class RunAnswer:
    """Everything a run produced; what only its end can tell is None while it goes on.

    `results` are `{type, data, metadata}`; `failure` is the server's condition, if there was one.
    """

    execution_id: str
    session_id: str
    stdout: str = ""
    stderr: str = ""
    results: list[JsonObject] = field(default_factory=list)
    truncated: bool = False
    exit_code: int | None = None
    execution_time_ms: float | None = None
    duration: str | None = None
    files_modified: int | None = None
    data: JsonObject | None = None
    exception: ExceptionInfo | None = None
    state: str | None = None
    started_from: str | None = None
    kernel_generation: int | None = None
    queued_ms: float | None = None
    start_ms: float | None = None
    cause: str | None = None
    failure: Failure | None = None


class Clip:
    """A growing text of which the first `bound` bytes and the last half as many are kept."""

    __slots__ = ("_bound", "_head", "_tail", "size")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._head = bytearray()
        self._tail = bytearray()  # of what comes after the head
        self.size = 0

    def add(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self.size += len(data)
        room = self._bound - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[: max(0, len(self._tail) - self._bound // 2)]

    def text(self, bound: int) -> str:
        """The whole when it has at most `bound` bytes (≤ the clip's own), else head and tail."""
        if self.size <= bound:
            return self._head.decode("utf-8", "replace")
        half = bound // 2
        marker = f"\n[... {self.size - 2 * half} bytes left out ...]\n"
        # A cut may fall inside a character: what is left of it is dropped.
        return (
            self._head[:half].decode("utf-8", "ignore")
            + marker
            + self._last(half).decode("utf-8", "ignore")
        )

    def _last(self, size: int) -> bytes | bytearray:
        """That many bytes of the end."""
        if len(self._tail) < size:
            return (self._head + self._tail)[-size:]
        return self._tail[len(self._tail) - size :]


@dataclass(slots=True)
class _Named:
    """The displays of one id: how many bytes they take together, and what updated them last."""

    count: int = 0
    size: int = 0
    update: JsonObject = field(default_factory=dict)
    fresh: list[int] = field(default_factory=list)  # outputs that came after the update


class Displays:
    """The rich outputs of a run: in order, updated in place, cleared when told, bounded.

    What does not fit is replaced by a note, and when there is no room for that, left out. An update
    costs the same however many outputs there are: a program may send any number of both.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._items: list[JsonObject | _Named] = []  # updated ones show what their id shows
        self._named: dict[str, _Named] = {}
        self._clear_next = False
        self.size = 0
        self.omitted = False

    def add(
        self, kind: str, event: Result | Display, display_id: str | None, size: int | None = None
    ) -> None:
        """`size` is that of the event's JSON, where it is known."""
        if self._clear_next:
            self.clear()
        found = self._fitting(kind, event, self._bound - self.size, size)
        if found is None:
            return
        item, size = found
        if display_id is not None:
            named = self._named.setdefault(display_id, _Named())
            named.count += 1
            named.size += size
            named.fresh.append(len(self._items))
        self._items.append(item)
        self.size += size

    def update(self, event: UpdateDisplay, size: int | None = None) -> None:
        named = None if event.display_id is None else self._named.get(event.display_id)
        if named is None:
            return
        room = (self._bound - self.size + named.size) // named.count
        found = self._fitting("display_data", event, room, size)
        if found is not None:
            named.update, shown = found
            for index in named.fresh:
                self._items[index] = named
            named.fresh.clear()
            self.size += shown * named.count - named.size
            named.size = shown * named.count

    def clear(self, wait: bool = False) -> None:
        self._clear_next = wait
        if not wait:
            self._items.clear()
            self._named.clear()
            self.size, self.omitted = 0, False

    def results(self) -> list[JsonObject]:
        return [item.update if isinstance(item, _Named) else item for item in self._items]

    def _fitting(
        self, kind: str, event: Rich, room: int, size: int | None
    ) -> tuple[JsonObject, int] | None:
        """What is shown of it in so much room, and its size; None when there is no room at all."""
        item: JsonObject = {"type": kind, "data": event.data, "metadata": event.metadata}
        if size is None:
            size = len(json.dumps(item))
        if size > room:
            self.omitted = True
            note = {"text/plain": f"[... {size} bytes left out ...]"}
            item = {"type": kind, "data": note, "metadata": {}}
            size = len(json.dumps(item))
        return (item, size) if size <= room else None


class Fold:
    """Takes events one after the other; `answer()` may be asked at any time.

    `bound` is the number of bytes that stdout, stderr and results may have together in the answer;
    past it the answer keeps head and tail and says `truncated`. Results go first, then the two
    streams share the rest.
    """

    def __init__(self, execution_id: str, session_id: str, bound: int) -> None:
        self._ids = (execution_id, session_id)
        self._bound = bound
        self._stdout, self._stderr = Clip(bound), Clip(bound)
        self._displays = Displays(bound)
        self._failure: Failure | None = None
        self._done: Done | None = None

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            self._add(event)

    async def take(self, events: Iterable[Event]) -> None:
        """The same on the event loop, which others have in between when there is much to do."""
        for number, event in enumerate(events, 1):
            if (
                isinstance(event, Result | Display | UpdateDisplay)
                and estimate_size(event.data) > LARGE_BYTES
            ):
                self._add(event, await run_cooperatively(_measuring(event)))
            else:
                self._add(event)
            if number % 64 == 0:
                await asyncio.sleep(0)

    def _add(self, event: Event, size: int | None = None) -> None:
        match event:
            case Stdout():
                self._stdout.add(event.content)
            case Stderr():
                self._stderr.add(event.content)
            case Result():
                self._displays.add("execute_result", event, None, size)
            case Display():
                self._displays.add("display_data", event, event.display_id, size)
            case UpdateDisplay():
                self._displays.update(event, size)
            case ClearOutput():
                self._displays.clear(event.wait)
            case Failure():
                self._failure = event
            case Done():
                self._done = event

    def answer(self) -> RunAnswer:
        out, err = self._stdout, self._stderr
        room = max(0, self._bound - self._displays.size)
        err_room = min(err.size, max(room // 2, room - out.size))
        answer = RunAnswer(
            *self._ids,
            stdout=out.text(room - err_room),
            stderr=err.text(err_room),
            results=self._displays.results(),
            truncated=out.size + err.size > room or self._displays.omitted,
            failure=self._failure,
        )
        if self._done is not None:
            _end(answer, self._done)
        return answer


def _measuring(event: Rich) -> Stepwise[int]:
    """Steps to the size of an event's JSON."""
    size = 0
    for piece in iterencode({"data": event.data, "metadata": event.metadata}):
        size += len(piece)
        yield
    return size


_OF_THE_END = (
    "exit_code", "execution_time_ms", "duration", "files_modified", "data", "exception", "state",
    "started_from", "kernel_generation", "queued_ms", "start_ms", "cause",
)  # fmt: skip


def _end(answer: RunAnswer, done: Done) -> None:
    for name in _OF_THE_END:
        setattr(answer, name, getattr(done, name))
