"""The events of an execution, as they are logged and sent, in order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from era_kernels.models.formatting import JsonObject


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An uncaught error of the user's program."""

    name: str
    value: str
    traceback: list[str]


@dataclass(frozen=True, slots=True)
class Stdout:
    """Text that the program wrote to its standard output."""

    type: ClassVar[str] = "stdout"
    content: str


@dataclass(frozen=True, slots=True)
class Stderr:
    """Text that the program wrote to its standard error."""

    type: ClassVar[str] = "stderr"
    content: str


@dataclass(frozen=True, slots=True)
class Result:
    """The value of a run's last expression, as a MIME bundle."""

    type: ClassVar[str] = "result"
    data: JsonObject
    metadata: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Display:
    """A rich output; `display_id` names the output for later updates."""

    type: ClassVar[str] = "display"
    data: JsonObject
    metadata: JsonObject = field(default_factory=dict)
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateDisplay:
    """Replaces the content of the display with this `display_id`."""

    type: ClassVar[str] = "update_display"
    data: JsonObject
    metadata: JsonObject = field(default_factory=dict)
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """Removes the rich outputs, at once or (`wait`) when the next one arrives."""

    type: ClassVar[str] = "clear_output"
    wait: bool = False


@dataclass(frozen=True, slots=True)
class InputRequest:
    """The program waits for a line; `password`: the line must not be shown while it is typed."""

    type: ClassVar[str] = "input_request"
    prompt: str
    password: bool = False
    key: str = ""  # identifies the request to the kernel; never sent to callers


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits behind others; `position` counts from 1."""

    type: ClassVar[str] = "queued"
    position: int


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An error of the server, never of the program: a timeout, a dead kernel, a deletion."""

    type: ClassVar[str] = "error"
    error: str
    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every execution.

    Times are in milliseconds; `data` is the session's data after the run.
    """

    type: ClassVar[str] = "done"
    exit_code: int
    duration: str
    execution_time_ms: float
    files_modified: int
    session_id: str
    execution_id: str
    state: str
    started_from: str
    kernel_generation: int
    queued_ms: float
    start_ms: float
    exception: ExceptionInfo | None = None
    cause: str | None = None
    notices: list[str] | None = None  # texts of the server: why earlier variables were lost
    files_changed: JsonObject | None = None  # `created`, `changed`, `deleted`: paths; None: none
    data: JsonObject = field(default_factory=dict)


SERVER_PREFIX = "[era] "  # of the server's own lines on a program's stderr


def server_line(text: str, stderr_before: str) -> Stderr:
    """Makes a line that the server adds to a program's stderr, apart from the program's own.

    `stderr_before` is the end of what is there.

    >>> server_line("restarted", "").content, server_line("restarted", "Wai").content
    ('[era] restarted\\n', '\\n[era] restarted\\n')
    """
    is_at_line_start = not stderr_before or stderr_before.endswith("\n")
    return Stderr(f"{'' if is_at_line_start else chr(10)}{SERVER_PREFIX}{text}\n")


Output = Stdout | Stderr | Result | Display | UpdateDisplay | ClearOutput | InputRequest
Event = Output | Queued | ErrorEvent | Done


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event with its number and time in a log; `seq` counts from 1 without a gap."""

    seq: int
    time: datetime
    event: Event


_EVENT_TYPES = (
    Stdout, Stderr, Result, Display, UpdateDisplay, ClearOutput, InputRequest, Queued, ErrorEvent,
    Done,
)  # fmt: skip
_TYPES_BY_NAME: dict[str, type[Any]] = {cls.type: cls for cls in _EVENT_TYPES}


def event_to_json(event: Event) -> JsonObject:
    """Returns an event as a JSON object, `type` first; None is left out, but not in `exception`."""
    out: JsonObject = {"type": event.type}
    for name in event.__slots__:
        value = getattr(event, name)
        if name == "exception":
            out[name] = None if value is None else dataclasses.asdict(value)
        elif value is not None and name != "key":
            out[name] = value
    return out


def event_values(event: Event) -> tuple[JsonObject, ...]:
    """Returns the JSON objects in an event, which may be large: `data` and `metadata`."""
    found = (getattr(event, name, None) for name in ("data", "metadata"))
    return tuple(value for value in found if value is not None)


def event_from_json(value: JsonObject) -> Event:
    """Returns the event of a JSON object; the inverse of `event_to_json`.

    Unknown fields are ignored. Raises KeyError or TypeError when the object is no event.
    """
    cls = _TYPES_BY_NAME[value["type"]]
    fields = {name: value[name] for name in cls.__slots__ if name in value}
    if fields.get("exception") is not None:
        fields["exception"] = ExceptionInfo(**fields["exception"])
    event: Event = cls(**fields)
    return event
