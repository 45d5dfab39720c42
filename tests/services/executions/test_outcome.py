"""How runs end, in the words of the API."""

from __future__ import annotations

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.models import Ending, ExceptionInfo, Failure, Finished, Reason, Session, now
from era_kernels.services.executions.outcome import (
    Timing,
    done_event,
    error_event,
    machine_ended,
    session_closed,
)

SESSION = Session("s1", "alpha", "d1", now(), kernel_generation=4)


def lost(exit_info: Ending) -> Finished:
    return Finished(exit_info.exit_code, state="lost", ending=exit_info)


def test_program_that_ends_is_no_condition() -> None:
    """A program's own end, good or bad, is no condition of the server."""
    assert error_event(Finished(0), 30) is None
    assert error_event(Finished(1, ExceptionInfo("E", "v", [])), 30) is None


@pytest.mark.parametrize("state", ["preserved", "lost"])
def test_timeout_names_its_seconds(state: str) -> None:
    """A timeout names its seconds; what became of the variables is for `state` to tell."""
    expected = Failure(
        "Execution timeout", "The run did not end within 2.5 s.", "EXECUTION_TIMEOUT"
    )
    assert error_event(Finished(124, state=state, timed_out=True), 2.5) == expected


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Ending(reason=Reason.DELETED), "SESSION_DELETED"),
        (Ending(reason=Reason.RESTARTED), "SESSION_RESTARTED"),
        (Ending(reason=Reason.STOPPED), "SERVER_STOPPED"),
        (Ending(reason="output limit 1 GiB"), "OUTPUT_LIMIT"),
        (Ending(reason="the kernel stopped answering"), "KERNEL_DIED"),
        (Ending(code=7), "KERNEL_DIED"),
        (Ending(signal=11), "KERNEL_DIED"),
    ],
)
def test_every_ending_has_its_code(ending: Ending, code: str) -> None:
    """A machine that ended in a run is told by a stable code, and the cause in words."""
    failure = error_event(lost(ending), 30)
    assert failure is not None
    assert failure.code == code
    if code == "KERNEL_DIED":
        assert ending.cause in failure.message


def test_problem_is_told_as_it_is() -> None:
    """What kept a run from its kernel has the code of its error, also when the machine ended."""
    problem = InsufficientStorage("No room.")
    expected = Failure("Insufficient storage", "No room.", "INSUFFICIENT_STORAGE")
    assert error_event(Finished(1), 30, problem) == expected
    assert error_event(lost(Ending(reason="it could not be kept")), 30, problem) == expected


def test_session_that_ended_wins_over_the_problem() -> None:
    """A queued run of a deleted session is told by the stream's code, not by the answer's."""
    failure = error_event(session_closed(Reason.DELETED), 30, InsufficientStorage("No room."))
    assert failure is not None
    assert failure.code == "SESSION_DELETED"


def test_done_tells_everything() -> None:
    """Times are milliseconds, the cause is in words, the data is what is after the run."""
    timing = Timing(queued=0.0012345, start=0.5, execution=1.5, started_from="live")
    done = done_event(
        machine_ended(Ending(signal=11)),
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
    finished = Finished(124, state="lost", ending=Ending(signal=9), timed_out=True)
    done = done_event(
        finished, Timing(), session=SESSION, execution_id="e", files_modified=0, data={}
    )
    assert done.cause == "timeout"


def test_run_that_waited_when_its_session_ended() -> None:
    """It ends with 137 and the reason."""
    finished = session_closed(Reason.DELETED)
    assert (finished.exit_code, finished.state) == (137, "lost")
    assert finished.ending == Ending(reason="session deleted")
