"""Turns the end of a run (`ExecutionEnd`) into the last events that the API reports; pure."""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGINT

from era_kernels.errors import EraError
from era_kernels.models import (
    Done,
    EndReason,
    ErrorEvent,
    ExecutionEnd,
    ExitInfo,
    FilesChanged,
    JsonObject,
    Session,
    format_duration,
)


@dataclass(slots=True)
class Timing:
    """Holds how many seconds a run was queued, started and executed, and its kind of kernel.

    `notices` are the texts that the server has for this run.
    """

    queued: float = 0.0
    start: float = 0.0
    execution: float = 0.0
    started_from: str = "fresh"
    notices: tuple[str, ...] = ()

    def machine_acquired(self, seconds: float, started_from: str) -> None:
        """Notes that the machine was there after so many seconds."""
        self.start = seconds
        self.started_from = started_from

    def executed(self, seconds: float, notices: tuple[str, ...]) -> None:
        """Notes that the process had the execution for so many seconds."""
        self.execution = seconds
        self.notices = notices


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


_REASON_ERRORS: dict[str, ErrorEvent] = {
    EndReason.DELETED: ErrorEvent(
        "Session deleted", "The session was deleted during the run.", "SESSION_DELETED"
    ),
    EndReason.RESTARTED: ErrorEvent(
        "Session restarted", "The kernel was restarted during the run.", "SESSION_RESTARTED"
    ),
    EndReason.STOPPED: ErrorEvent(
        "Server stopped", "The server stopped during the run.", "SERVER_STOPPED"
    ),
}

_EXIT_LABELS = {0: "ok", 130: "interrupted"}
ERROR_LABELS = {
    "EXECUTION_TIMEOUT": "timeout",
    "SESSION_DELETED": "deleted",
    "SESSION_RESTARTED": "restarted",
    "SERVER_STOPPED": "stopped",
    "OUTPUT_LIMIT": "output limit",
    "KERNEL_DIED": "lost",
}


def error_event(
    end: ExecutionEnd, timeout: float, error: EraError | None = None
) -> ErrorEvent | None:
    """Returns the error event of a run that the server ended; None for a program's own end.

    `error` kept the run from its kernel, or its output from the log.
    """
    if end.timed_out:
        return ErrorEvent(
            "Execution timeout",
            f"The run did not end within {timeout:g} s.",
            "EXECUTION_TIMEOUT",
        )
    exit_info = end.exit_info
    if exit_info is not None and exit_info.reason in _REASON_ERRORS:
        return _REASON_ERRORS[exit_info.reason]
    if error is not None:
        return ErrorEvent(error.title, error.message, error.code)
    if exit_info is None or _is_interrupt(end, exit_info):
        return None
    if exit_info.reason is not None and exit_info.reason.startswith(EndReason.OUTPUT_LIMIT):
        return ErrorEvent("Output limit", f"The run was ended: {exit_info.reason}.", "OUTPUT_LIMIT")
    if end.state == "preserved":  # a program beside the kernel ended, and nothing else
        return None
    return ErrorEvent(
        "Kernel died",
        f"The kernel's process ended during the run: {exit_info.description}. Variables are lost; "
        "files and data stay, and the next run starts a new kernel.",
        "KERNEL_DIED",
    )


def _is_interrupt(end: ExecutionEnd, exit_info: ExitInfo) -> bool:
    """Returns True when an interrupt ended the run and its machine too: no error of the server."""
    if exit_info.reason is not None:
        return exit_info.reason == EndReason.INTERRUPTED
    return end.interrupted and exit_info.signal == SIGINT


def metric_label(end: ExecutionEnd, error: ErrorEvent | None) -> str:
    """Returns how the run ended, as one of a bounded number of metric labels."""
    if error is None:
        return _EXIT_LABELS.get(end.exit_code, "error")
    exit_info = end.exit_info
    if exit_info is not None and exit_info.reason == EndReason.CLIENT_DISCONNECTED:
        return "client gone"
    return ERROR_LABELS.get(error.code, "failed")


def _cause(end: ExecutionEnd) -> str | None:
    if end.timed_out:
        return EndReason.TIMEOUT.value
    if end.cancelled:
        return EndReason.CANCELLED.value
    return None if end.exit_info is None else end.exit_info.description


def done_event(
    end: ExecutionEnd,
    timing: Timing,
    *,
    session: Session,
    execution_id: str,
    files_changed: FilesChanged,
    data: JsonObject,
) -> Done:
    """Makes the last event of a run."""
    return Done(
        exit_code=end.exit_code,
        duration=format_duration(timing.execution),
        execution_time_ms=milliseconds(timing.execution),
        files_modified=files_changed.count,
        session_id=session.id,
        execution_id=execution_id,
        state=end.state,
        started_from=timing.started_from,
        kernel_generation=session.kernel_generation,
        queued_ms=milliseconds(timing.queued),
        start_ms=milliseconds(timing.start),
        exception=end.exception,
        cause=_cause(end),
        notices=list(timing.notices) or None,
        files_changed=files_changed.paths() if files_changed.count else None,
        data=data,
    )


def session_closed(reason: str) -> ExecutionEnd:
    """Returns the end of a run whose session ended before its kernel received the run."""
    return machine_ended(ExitInfo(reason=reason))


def machine_ended(exit_info: ExitInfo) -> ExecutionEnd:
    """Returns the end of a run whose machine ended first."""
    return ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)


def cancelled_before_start(state: str) -> ExecutionEnd:
    """Returns the end of a run that was cancelled before its kernel received it."""
    return ExecutionEnd(130, state=state, cancelled=True)
