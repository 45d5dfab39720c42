"""How a run ended, in the words of the API: a pure step from `Finished` to the last events."""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGINT

from era_kernels.errors import EraError
from era_kernels.models import (
    Done,
    Ending,
    Failure,
    Finished,
    JsonObject,
    Reason,
    Session,
    duration_text,
)


@dataclass(slots=True)
class Timing:
    """Where the time of a run went, in seconds; and what kind of kernel it met."""

    queued: float = 0.0
    start: float = 0.0
    execution: float = 0.0
    started_from: str = "fresh"


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


_REASONS: dict[str, Failure] = {
    Reason.DELETED: Failure(
        "Session deleted", "The session was deleted during the run.", "SESSION_DELETED"
    ),
    Reason.RESTARTED: Failure(
        "Session restarted", "The kernel was restarted during the run.", "SESSION_RESTARTED"
    ),
    Reason.STOPPED: Failure(
        "Server stopped", "The server stopped during the run.", "SERVER_STOPPED"
    ),
}

_EXITS = {0: "ok", 130: "interrupted"}
OUTCOMES = {
    "EXECUTION_TIMEOUT": "timeout",
    "SESSION_DELETED": "deleted",
    "SESSION_RESTARTED": "restarted",
    "SERVER_STOPPED": "stopped",
    "OUTPUT_LIMIT": "output limit",
    "KERNEL_DIED": "lost",
}


def failure_of(
    finished: Finished, timeout: float, problem: EraError | None = None
) -> Failure | None:
    """The server's condition that ended the run, if one did.

    `problem` kept the run from its kernel, or its output from the log.
    """
    if finished.timed_out:
        return Failure(
            "Execution timeout",
            f"The run did not end within {timeout:g} s.",
            "EXECUTION_TIMEOUT",
        )
    ending = finished.ending
    if ending is not None and ending.reason in _REASONS:
        return _REASONS[ending.reason]
    if problem is not None:
        return Failure(problem.title, problem.message, problem.code)
    if ending is None or _by_interrupt(finished, ending):
        return None
    if ending.reason is not None and ending.reason.startswith(Reason.OUTPUT_LIMIT):
        return Failure("Output limit", f"The run was ended: {ending.reason}.", "OUTPUT_LIMIT")
    if finished.state == "preserved":  # a program beside the kernel ended, and nothing else
        return None
    return Failure(
        "Kernel died",
        f"The kernel's process ended during the run: {ending.cause}. Variables are lost; files "
        "and data stay, and the next run starts a new kernel.",
        "KERNEL_DIED",
    )


def _by_interrupt(finished: Finished, ending: Ending) -> bool:
    """Somebody wanted it to end, and it took its machine along: no condition of the server."""
    if ending.reason is not None:
        return ending.reason == Reason.INTERRUPTED
    return finished.interrupted and ending.signal == SIGINT


def outcome_of(finished: Finished, failure: Failure | None) -> str:
    """How the run ended, in one of a few words that can be counted."""
    if failure is None:
        return _EXITS.get(finished.exit_code, "error")
    ending = finished.ending
    if ending is not None and ending.reason == Reason.CLIENT_GONE:
        return "client gone"
    return OUTCOMES.get(failure.code, "failed")


def _cause(finished: Finished) -> str | None:
    if finished.timed_out:
        return Reason.TIMEOUT.value
    if finished.cancelled:
        return Reason.CANCELLED.value
    return None if finished.ending is None else finished.ending.cause


def done_of(
    finished: Finished,
    timing: Timing,
    *,
    session: Session,
    execution_id: str,
    files_modified: int,
    data: JsonObject,
) -> Done:
    """The last event of a run."""
    return Done(
        exit_code=finished.exit_code,
        duration=duration_text(timing.execution),
        execution_time_ms=milliseconds(timing.execution),
        files_modified=files_modified,
        session_id=session.id,
        execution_id=execution_id,
        state=finished.state,
        started_from=timing.started_from,
        kernel_generation=session.kernel_generation,
        queued_ms=milliseconds(timing.queued),
        start_ms=milliseconds(timing.start),
        exception=finished.exception,
        cause=_cause(finished),
        data=data,
    )


def ended_for(reason: str) -> Finished:
    """A run whose session ended before its kernel had it."""
    return ended_with(Ending(reason=reason))


def ended_with(ending: Ending) -> Finished:
    """A run whose machine ended before it did."""
    return Finished(ending.exit_code, state="lost", ending=ending)


def cancelled(state: str) -> Finished:
    """A run that its kernel never had, because somebody did not want it any more."""
    return Finished(130, state=state, cancelled=True)
