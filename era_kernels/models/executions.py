"""Executions: what is asked for, what stands in the index, how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from era_kernels.models.events import ExceptionInfo
from era_kernels.models.formats import JsonObject
from era_kernels.models.runtime import ExitInfo


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for a submission, and a digest of what it asked for under that key."""

    key: str
    digest: bytes


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
    background: bool = False  # nobody waits for it: another timeout is meant
    cancel_on_disconnect: bool = False  # it is interrupted when its caller leaves
    idempotency: IdempotencyKey | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # path → text, there before the run


@dataclass(frozen=True, slots=True)
class ExecSubmission:
    """A program that a caller asks to run beside a session's kernel.

    `code` is how it is listed; `stdin`, `timeout` and `env` as for code, and neither `stdin` nor
    `env` is stored or logged.
    """

    argv: tuple[str, ...]
    code: str
    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str | None = None  # None: nothing to read
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """What a kernel is asked to run. `number` counts the runs of a session, from 1."""

    code: str
    env: Mapping[str, str]
    timeout: float  # seconds
    run_number: int


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


@dataclass(frozen=True, slots=True)
class ExecutionEnd:
    """The last thing a kernel says of a run; the service makes `Failure` and `Done` of it."""

    exit_code: int
    exception: ExceptionInfo | None = None
    state: str = "preserved"  # or "lost"
    exit_info: ExitInfo | None = None  # the machine ended in this run
    timed_out: bool = False
    interrupted: bool = False  # somebody asked for its end while the kernel had it
    cancelled: bool = False  # somebody did before the kernel had it


@dataclass(frozen=True, slots=True)
class InterruptStep:
    """What was done to interrupt an execution, `seconds` after somebody asked for it."""

    action: str  # `cancel`, `interrupt`, `interrupt again`, `end`; at last `ended`
    seconds: float
