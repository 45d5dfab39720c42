"""The domain in plain values: sessions, executions, events, places, endings."""

from __future__ import annotations

import dataclasses
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

JsonObject = dict[str, Any]


def now() -> datetime:
    """The present in UTC; every time in the domain is an aware UTC datetime."""
    return datetime.now(UTC)


def iso(time: datetime | None) -> str:
    """UTC ISO 8601 with milliseconds and Z; None becomes the empty string.

    >>> iso(datetime(2025, 1, 15, 10, 30, tzinfo=UTC))
    '2025-01-15T10:30:00.000Z'
    """
    if time is None:
        return ""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def duration_text(seconds: float) -> str:
    """A duration for people: `15.3ms`, `5.12s`, `1m2s`, `2h0m5s`.

    >>> duration_text(0.0153), duration_text(5.123), duration_text(62.4)
    ('15.3ms', '5.12s', '1m2s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


# ---------------------------------------------------------------- sessions


@dataclass(frozen=True, slots=True)
class Session:
    """What is stored of a session. `directory` is the random name of its directory."""

    id: str
    language: str
    directory: str
    created_at: datetime
    persistent: bool = True
    data: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    last_run_at: datetime | None = None
    default_timeout: float | None = None
    ttl: float | None = None  # seconds without a request after which it is deleted
    allow_internet: bool = False
    allow_public: bool = False
    file_count: int = 0
    total_size: int = 0
    kernel_generation: int = 0


class SessionStatus(StrEnum):
    """What a session's kernel is doing."""

    IDLE = "idle"
    BUSY = "busy"
    STARTING = "starting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Isolation:
    """How strong the walls are: `tier` 1 (all) to 4 (none); `missing`: what is not enforced."""

    tier: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as callers see it: the stored part and what is alive of it."""

    session: Session
    status: SessionStatus
    isolation: Isolation


@dataclass(frozen=True, slots=True)
class NewSession:
    """A wish for a session; `language` is an id or an alias, in any case."""

    language: str
    id: str | None = None
    persistent: bool = True
    data: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    default_timeout: float | None = None
    ttl: float | None = None
    allow_internet: bool | None = None
    allow_public: bool | None = None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One user file of a workspace; `path` is relative with `/`, `size` in bytes."""

    path: str
    size: int
    modified_at: datetime


# ---------------------------------------------------------------- places and processes


@dataclass(frozen=True, slots=True)
class Place:
    """A session's directories, as handed to a machine."""

    workspace: Path  # home and working directory of the code
    packages: Path  # what setup installed
    cache: Path  # what tools cache; outside the workspace, so that an import is no file of the user
    temporary: Path = Path("/tmp")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use; None means no limit. Sizes in bytes, `cpu` in processors."""

    memory: int | None = None
    processes: int | None = None
    cpu: float | None = None
    open_files: int | None = None
    file_size: int | None = None
    workspace: int | None = None
    tmp: int | None = None
    shm: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: a status of its own (`code`), a signal, or a `reason` of ours."""

    code: int | None = None
    signal: int | None = None
    reason: str | None = None

    @property
    def exit_code(self) -> int:
        """What a shell would report: the code, 128 + signal, or 137 when we ended it."""
        if self.signal is not None and self.reason is None:
            return 128 + self.signal
        if self.code is not None and self.reason is None:
            return self.code
        return 137

    @property
    def cause(self) -> str:
        """The ending in words: `exit 7`, `signal 11 (SIGSEGV)`, `session deleted`."""
        if self.reason is not None:
            return self.reason
        if self.signal is not None:
            try:
                return f"signal {self.signal} ({signals.Signals(self.signal).name})"
            except ValueError:
                return f"signal {self.signal}"
        return f"exit {self.code}"


class Reason(StrEnum):
    """Why the server itself ended a machine."""

    DELETED = "session deleted"
    RESTARTED = "restarted"
    STOPPED = "server stopped"
    TIMEOUT = "timeout"
    CLIENT_GONE = "client gone"
    OUTPUT_LIMIT = "output limit"


# ---------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller asks a session to run. `timeout` in seconds, None or 0 means the default.

    `env` holds the caller's variables of this run; they are never stored and never logged.
    """

    code: str
    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    update_data: JsonObject | None = None
    base_url: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # path → text, there before the run


@dataclass(frozen=True, slots=True)
class Request:
    """What a kernel is asked to run. `number` counts the runs of a session, from 1."""

    code: str
    env: Mapping[str, str]
    timeout: float  # seconds
    number: int


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An uncaught error of the user's program."""

    name: str
    value: str
    traceback: list[str]


class ExecutionStatus(StrEnum):
    """Where an execution is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Execution:
    """One row of the index of executions."""

    id: str
    session_id: str
    code: str
    created_at: datetime
    status: ExecutionStatus = ExecutionStatus.QUEUED
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    cause: str | None = None
    position: int | None = None  # in the queue, from 1; only while queued


# ---------------------------------------------------------------- events


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
    """A rich output; `display_id` names it for later updates."""

    type: ClassVar[str] = "display"
    data: JsonObject
    metadata: JsonObject = field(default_factory=dict)
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateDisplay:
    """Replaces what the display of that id shows."""

    type: ClassVar[str] = "update_display"
    data: JsonObject
    metadata: JsonObject = field(default_factory=dict)
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """Empties the rich outputs; `wait`: when the next one arrives."""

    type: ClassVar[str] = "clear_output"
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits behind others; `position` counts from 1."""

    type: ClassVar[str] = "queued"
    position: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A condition of the server (never an error of the program): timeout, death, deletion."""

    type: ClassVar[str] = "error"
    error: str
    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Done:
    """Always the last event. Times in milliseconds; `data` is the session's data after the run."""

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
    data: JsonObject = field(default_factory=dict)


Output = Stdout | Stderr | Result | Display | UpdateDisplay | ClearOutput
Event = Output | Queued | Failure | Done


@dataclass(frozen=True, slots=True)
class Finished:
    """The last thing a kernel says of a run; the service makes `Failure` and `Done` of it."""

    exit_code: int
    exception: ExceptionInfo | None = None
    state: str = "preserved"  # or "lost"
    ending: Ending | None = None  # the machine ended in this run
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it stands in a log: `seq` counts from 1 without a gap."""

    seq: int
    time: datetime
    event: Event


_KINDS = (Stdout, Stderr, Result, Display, UpdateDisplay, ClearOutput, Queued, Failure, Done)
_EVENTS: dict[str, type[Any]] = {cls.type: cls for cls in _KINDS}


def event_to_json(event: Event) -> JsonObject:
    """An event as a JSON object, `type` first; what is None is left out, but `exception`."""
    out: JsonObject = {"type": event.type}
    for name in event.__slots__:
        value = getattr(event, name)
        if name == "exception":
            out[name] = None if value is None else dataclasses.asdict(value)
        elif value is not None:
            out[name] = value
    return out


def event_from_json(value: JsonObject) -> Event:
    """The inverse of `event_to_json`; fields that are no event's are ignored.

    Raises KeyError or TypeError when the object is no event.
    """
    cls = _EVENTS[value["type"]]
    fields = {name: value[name] for name in cls.__slots__ if name in value}
    if fields.get("exception") is not None:
        fields["exception"] = ExceptionInfo(**fields["exception"])
    event: Event = cls(**fields)
    return event
