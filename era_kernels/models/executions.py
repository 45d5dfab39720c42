"""Executions: the submission, the row in the index and the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from era_kernels.models.events import Done, ExceptionInfo
from era_kernels.models.formatting import JsonObject, format_duration
from era_kernels.models.runtime import ExitInfo


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for a submission, and a digest of the request that came with the key."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """Code that a caller submits to a session.

    `timeout` is in seconds; None or 0 means the default. `env` holds the caller's variables of this
    run, which are never stored and never logged.
    """

    code: str
    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    update_data: JsonObject | None = None
    base_url: str = ""
    background: bool = False  # no caller waits: max_background_timeout applies
    cancel_on_disconnect: bool = False  # the run is interrupted when its last caller leaves
    idempotency: IdempotencyKey | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # path → text, there before the run
    ends_program: bool = False  # see KernelRequest
    refuse_if_busy: bool = False  # it does not wait for other runs of the session


@dataclass(frozen=True, slots=True)
class ExecSubmission:
    """A program that a caller submits, to run beside a session's kernel.

    `code` is the text that lists show. `timeout` and `env` are as for code; neither `stdin` nor
    `env` is stored or logged.
    """

    argv: tuple[str, ...]
    code: str
    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str | None = None  # None: /dev/null
    base_url: str = ""
    background: bool = False  # as of code
    cwd: str | None = None  # a directory below the workspace; None: the workspace
    is_request: bool = False  # as of an execution


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """Code that a kernel is to run; `run_number` counts the runs of a session, from 1.

    `ends_program`: no further code follows, so exit functions and finalizers belong to this run.
    """

    code: str
    env: Mapping[str, str]
    timeout: float  # seconds
    run_number: int
    ends_program: bool = False


class ExecutionStatus(StrEnum):
    """The state of an execution."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of the index of executions."""

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
    is_request: bool = False  # it answers a request to stored code, perhaps of a stranger


@dataclass(frozen=True, slots=True)
class ExecutionEnd:
    """A kernel's last item of a run, from which the service makes `ErrorEvent` and `Done`."""

    exit_code: int
    exception: ExceptionInfo | None = None
    state: str = "preserved"  # or "lost"
    exit_info: ExitInfo | None = None  # set when the machine ended in this run
    timed_out: bool = False
    interrupted: bool = False  # an interrupt was requested while the kernel ran the code
    cancelled: bool = False  # an interrupt was requested before the kernel got it
    shortage: str | None = None  # what the program did not get, and the limit, in words


MAX_CHANGED_PATHS = 1000  # that are told of one execution


@dataclass(frozen=True, slots=True)
class FilesChanged:
    """The user's files that changed: how many, and the first MAX_CHANGED_PATHS of their paths."""

    count: int = 0
    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    def paths(self) -> JsonObject:
        """Returns the paths as callers see them."""
        return {
            "created": list(self.created),
            "changed": list(self.changed),
            "deleted": list(self.deleted),
        }


NO_FILES_CHANGED = FilesChanged()


@dataclass(frozen=True, slots=True)
class InterruptStep:
    """A step of interrupting an execution, taken `seconds` after the request to interrupt."""

    action: str  # `cancel`, `interrupt`, `interrupt again`, `end`; at last `ended`
    seconds: float


def lost_done(
    execution: Execution,
    seconds: float,
    *,
    exit_code: int,
    cause: str | None,
    kernel_generation: int,
    data: JsonObject,
) -> Done:
    """Makes the last event of an execution that took so many seconds and could not report it."""
    return Done(
        exit_code=exit_code,
        duration=format_duration(seconds),
        execution_time_ms=round(seconds * 1000, 3),
        files_modified=0,
        session_id=execution.session_id,
        execution_id=execution.id,
        state="lost",
        started_from="fresh",
        kernel_generation=kernel_generation,
        queued_ms=0.0,
        start_ms=0.0,
        cause=cause,
        data=data,
    )
