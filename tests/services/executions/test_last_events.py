"""The end of a run becomes the last events that the API reports."""

from __future__ import annotations

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.models import (
    EndReason,
    ErrorEvent,
    ExceptionInfo,
    ExecutionEnd,
    ExitInfo,
    FilesChanged,
    Session,
    now,
)
from era_kernels.services.executions.last_events import (
    Timing,
    done_event,
    error_event,
    machine_ended,
    session_closed,
)

SESSION = Session("s1", "alpha", "d1", now(), kernel_generation=4)


def lost(exit_info: ExitInfo) -> ExecutionEnd:
    return ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)


def test_end_of_a_program_is_no_error_of_the_server() -> None:
    """A program's own end, good or bad, is no error of the server."""
    assert error_event(ExecutionEnd(0), 30) is None
    assert error_event(ExecutionEnd(1, ExceptionInfo("E", "v", [])), 30) is None


@pytest.mark.parametrize("state", ["preserved", "lost"])
def test_timeout_names_its_seconds(state: str) -> None:
    """A timeout names its seconds; `state` tells what became of the variables."""
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
    """A machine that ended in a run is reported with a stable code and the cause as text."""
    failure = error_event(lost(ending), 30)
    assert failure is not None
    assert failure.code == code
    if code == "KERNEL_DIED":
        assert ending.description in failure.message


def test_error_is_reported_as_it_is() -> None:
    """An error that kept a run from its kernel is reported, also when the machine ended."""
    error = InsufficientStorage("No room.")
    expected = ErrorEvent("Insufficient storage", "No room.", "INSUFFICIENT_STORAGE")
    assert error_event(ExecutionEnd(1), 30, error) == expected
    assert error_event(lost(ExitInfo(reason="it could not be kept")), 30, error) == expected


def test_session_that_ended_wins_over_the_error() -> None:
    """A queued run of a deleted session ends with the stream's code, not that of the error."""
    failure = error_event(session_closed(EndReason.DELETED), 30, InsufficientStorage("No room."))
    assert failure is not None
    assert failure.code == "SESSION_DELETED"


def test_done_tells_everything() -> None:
    """Times are in milliseconds, the cause is text, the data is that after the run."""
    timing = Timing(queued=0.0012345, start=0.5, execution=1.5, started_from="live")
    done = done_event(
        machine_ended(ExitInfo(signal=11)),
        timing,
        session=SESSION,
        execution_id="e1",
        files_changed=FilesChanged(2, ("a",), (), ("b",)),
        data={"n": 1},
    )
    assert (done.exit_code, done.state, done.cause) == (139, "lost", "signal 11 (SIGSEGV)")
    assert (done.queued_ms, done.start_ms, done.execution_time_ms) == (1.234, 500, 1500)
    assert (done.duration, done.started_from, done.kernel_generation) == ("1.50s", "live", 4)
    assert (done.session_id, done.execution_id, done.files_modified) == ("s1", "e1", 2)
    assert done.data == {"n": 1}
    assert done.files_changed == {"created": ["a"], "changed": [], "deleted": ["b"]}


def test_cause_of_a_timeout() -> None:
    """A timeout is the cause, whatever the kernel's end was."""
    finished = ExecutionEnd(124, state="lost", exit_info=ExitInfo(signal=9), timed_out=True)
    done = done_event(
        finished,
        Timing(),
        session=SESSION,
        execution_id="e",
        files_changed=FilesChanged(),
        data={},
    )
    assert done.cause == "timeout"


def test_run_that_waited_when_its_session_ended() -> None:
    """A run that waited when its session ended has exit code 137 and the reason."""
    finished = session_closed(EndReason.DELETED)
    assert (finished.exit_code, finished.state) == (137, "lost")
    assert finished.exit_info == ExitInfo(reason="session deleted")
