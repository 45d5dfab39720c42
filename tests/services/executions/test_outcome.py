"""How runs end, in the words of the API."""

from __future__ import annotations

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.models import (
    EndReason,
    ErrorEvent,
    ExceptionInfo,
    ExecutionEnd,
    ExitInfo,
    Session,
    now,
)
from era_kernels.services.executions.outcome import (
    Timing,
    done_event,
    error_event,
    machine_ended,
    session_closed,
)

SESSION = Session("s1", "alpha", "d1", now(), kernel_generation=4)


def lost(exit_info: ExitInfo) -> ExecutionEnd:
    return ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)


def test_program_that_ends_is_no_condition() -> None:
    """A program's own end, good or bad, is no condition of the server."""
    assert error_event(ExecutionEnd(0), 30) is None
    assert error_event(ExecutionEnd(1, ExceptionInfo("E", "v", [])), 30) is None


@pytest.mark.parametrize("state", ["preserved", "lost"])
def test_timeout_names_its_seconds(state: str) -> None:
    """A timeout names its seconds; what became of the variables is for `state` to tell."""
    expected = ErrorEvent(
        "Execution timeout", "The run did not end within 2.5 s.", "EXECUTION_TIMEOUT"
    )
    assert error_event(ExecutionEnd(124, state=state, timed_out=True), 2.5) == expected


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (ExitInfo(reason=EndReason.DELETED), "SESSION_DELETED"),
        (ExitInfo(reason=EndReason.RESTARTED), "SESSION_RESTARTED"),
        (ExitInfo(reason=EndReason.STOPPED), "SERVER_STOPPED"),
        (ExitInfo(reason="output limit 1 GiB"), "OUTPUT_LIMIT"),
        (ExitInfo(reason="the kernel stopped answering"), "KERNEL_DIED"),
        (ExitInfo(code=7), "KERNEL_DIED"),
        (ExitInfo(signal=11), "KERNEL_DIED"),
    ],
)
def test_every_ending_has_its_code(ending: ExitInfo, code: str) -> None:
    """A machine that ended in a run is told by a stable code, and the cause in words."""
    failure = error_event(lost(ending), 30)
    assert failure is not None
    assert failure.code == code
    if code == "KERNEL_DIED":
        assert ending.description in failure.message


def test_problem_is_told_as_it_is() -> None:
    """What kept a run from its kernel has the code of its error, also when the machine ended."""
    problem = InsufficientStorage("No room.")
    expected = ErrorEvent("Insufficient storage", "No room.", "INSUFFICIENT_STORAGE")
    assert error_event(ExecutionEnd(1), 30, problem) == expected
    assert error_event(lost(ExitInfo(reason="it could not be kept")), 30, problem) == expected


def test_session_that_ended_wins_over_the_problem() -> None:
    """A queued run of a deleted session is told by the stream's code, not by the answer's."""
    failure = error_event(session_closed(EndReason.DELETED), 30, InsufficientStorage("No room."))
    assert failure is not None
    assert failure.code == "SESSION_DELETED"


def test_done_tells_everything() -> None:
    """Times are milliseconds, the cause is in words, the data is what is after the run."""
    timing = Timing(queued=0.0012345, start=0.5, execution=1.5, started_from="live")
    done = done_event(
        machine_ended(ExitInfo(signal=11)),
        timing,
        session=SESSION,
        execution_id="e1",
        files_modified=2,
        data={"n": 1},
    )
    assert (done.exit_code, done.state, done.cause) == (139, "lost", "signal 11 (SIGSEGV)")
    assert (done.queued_ms, done.start_ms, done.execution_time_ms) == (1.234, 500, 1500)
    assert (done.duration, done.started_from, done.kernel_generation) == ("1.50s", "live", 4)
    assert (done.session_id, done.execution_id, done.files_modified) == ("s1", "e1", 2)
    assert done.data == {"n": 1}


def test_cause_of_a_timeout() -> None:
    """A timeout is the cause, whatever the kernel's end was."""
    finished = ExecutionEnd(124, state="lost", exit_info=ExitInfo(signal=9), timed_out=True)
    done = done_event(
        finished, Timing(), session=SESSION, execution_id="e", files_modified=0, data={}
    )
    assert done.cause == "timeout"


def test_run_that_waited_when_its_session_ended() -> None:
    """It ends with 137 and the reason."""
    finished = session_closed(EndReason.DELETED)
    assert (finished.exit_code, finished.state) == (137, "lost")
    assert finished.exit_info == ExitInfo(reason="session deleted")
