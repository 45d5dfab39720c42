"""The words for each end of a run, on stderr and for the run after it."""

from __future__ import annotations

from typing import Any

import pytest

from era_kernels.models import EndReason, ExceptionInfo, ExecutionEnd, ExitInfo, Limits
from era_kernels.services.executions.notices import (
    LOSES_NOTHING,
    LOSES_VARIABLES,
    SessionLimits,
    describe_end,
    describe_loss,
    explain_end,
    loss_notice,
)
from era_kernels.services.executions.shortage_in_output import MEMORY, OPEN_FILES, THREADS, Shortage

MIB = 1 << 20
LIMITS = SessionLimits(
    Limits(memory=2048 * MIB, processes=20, workspace=4 * MIB, open_files=1024),
    Limits(processes=20),
)
UNLIMITED = SessionLimits(Limits())


def lost(**exit_info: Any) -> ExecutionEnd:
    """A run whose machine ended so."""
    info = ExitInfo(**exit_info)
    return ExecutionEnd(info.exit_code, state="lost", exit_info=info)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (
            lost(reason="out of memory at 2048 MB"),
            "out of memory: the session's limit is 2 GiB (session_memory)",
        ),
        (
            lost(reason="workspace larger than 4 MB"),
            "workspace too large: the session's limit is 4 MiB (session_workspace)",
        ),
        (
            lost(reason="more than 20 processes"),
            (
                "too many processes: the session's limit is 20 "
                "(limits.processes, at most session_processes)"
            ),
        ),
        (
            lost(reason="more than 64 UDP sockets at one port"),
            "more than 64 UDP sockets at one port",
        ),
        (
            lost(reason="more than 10000 locks on parts of files"),
            "more than 10000 locks on parts of files",
        ),
        (
            lost(reason="files beside the workspace larger than 512 MB"),
            "files beside the workspace larger than 512 MB",
        ),
        (
            lost(reason="output limit 1 GiB"),
            "output limit: the run printed more than 1 GiB (max_execution_output)",
        ),
        (
            lost(reason="out of memory: all sessions together use 95 % of 12 GiB"),
            "out of memory: all sessions together use 95 % of 12 GiB",
        ),
        (lost(reason=EndReason.RESTARTED), "session restarted before the run ended"),
        (lost(reason=EndReason.STOPPED), "server stopped before the run ended"),
        (lost(reason=EndReason.INTERRUPTED), "interrupted, and the kernel ended with the run"),
        (
            ExecutionEnd(130, state="lost", exit_info=ExitInfo(signal=2), interrupted=True),
            "interrupted, and the kernel ended with the run",
        ),
        (
            ExecutionEnd(124, state="lost", exit_info=ExitInfo(reason="timeout"), timed_out=True),
            "timeout: the run did not end within 2.5 s",
        ),
        (lost(signal=11), "the process was killed by signal 11 (SIGSEGV)"),
        (lost(signal=9), "the process was killed by signal 9 (SIGKILL)"),
        (lost(signal=2), "the process was killed by signal 2 (SIGINT)"),
        (lost(reason="the kernel stopped answering"), "the kernel stopped answering"),
    ],
)
def test_end_of_the_machine(end: ExecutionEnd, expected: str) -> None:
    """One line names the reason, the limit and its setting, and what is lost."""
    assert describe_end(end, LIMITS, 2.5, LOSES_VARIABLES) == f"{expected}{LOSES_VARIABLES}"
    assert describe_end(end, LIMITS, 2.5, LOSES_NOTHING) == expected


def test_size_of_a_file() -> None:
    """A file that is as large as the workspace may be is told with the limit of the workspace."""
    end = ExecutionEnd(1, ExceptionInfo("OSError", "[Errno 27] File too large", []))
    for enforced, own, words in (
        (Limits(file_size=4 * MIB, workspace=4 * MIB), None, "4 MiB (session_workspace)"),
        (
            Limits(file_size=4 * MIB, workspace=4 * MIB),
            Limits(workspace=4 * MIB),
            "4 MiB (limits.workspace_mb, at most session_workspace)",
        ),
        (Limits(file_size=MIB, workspace=4 * MIB), None, "1 MiB (session_file_size)"),
        (Limits(file_size=MIB), None, "1 MiB (session_file_size)"),
    ):
        told = explain_end(end, "", SessionLimits(enforced, own)).shortage
        assert told == f"a file became too large: the session's limit is {words}"


def test_deletion() -> None:
    """Of a session that is deleted nothing is kept, so nothing is promised."""
    end = lost(reason=EndReason.DELETED)
    expected = "session deleted before the run ended"
    assert describe_end(end, LIMITS, 1, LOSES_VARIABLES) == expected


@pytest.mark.parametrize(
    "end",
    [
        ExecutionEnd(0),
        ExecutionEnd(1, ExceptionInfo("ValueError", "v", [])),
        ExecutionEnd(130, interrupted=True),
        ExecutionEnd(130, cancelled=True),
        ExecutionEnd(124, timed_out=True),
        lost(code=7),
        lost(code=0),
        lost(reason=EndReason.CLIENT_DISCONNECTED),
        # Programs beside the kernel.
        ExecutionEnd(139, exit_info=ExitInfo(signal=11)),
        ExecutionEnd(124, exit_info=ExitInfo(reason="timeout"), timed_out=True),
        ExecutionEnd(130, exit_info=ExitInfo(reason="interrupted")),
    ],
)
def test_end_that_needs_no_line(end: ExecutionEnd) -> None:
    """A program's own end, and an interrupt that cost nothing, are told by the exit code."""
    assert describe_end(end, LIMITS, 1, LOSES_VARIABLES) is None


def test_program_beside_the_kernel() -> None:
    """One that printed too much is told the same; its machine lives on."""
    end = ExecutionEnd(137, exit_info=ExitInfo(reason="output limit 1 MiB"))
    expected = "output limit: the run printed more than 1 MiB (max_execution_output)"
    assert describe_end(end, LIMITS, 1, LOSES_NOTHING) == expected


@pytest.mark.parametrize(
    ("shortage", "limits", "expected"),
    [
        (MEMORY, LIMITS, "out of memory: the session's limit is 2 GiB (session_memory)"),
        (
            MEMORY,
            SessionLimits(Limits(memory=128 * MIB), Limits(memory=128 * MIB)),
            (
                "out of memory: the session's limit is 128 MiB "
                "(limits.memory_mb, at most session_memory)"
            ),
        ),
        (
            THREADS,
            LIMITS,
            (
                "no more threads or processes could be started: the session has at most 2 GiB of "
                "memory (session_memory) and 20 processes and threads "
                "(limits.processes, at most session_processes)"
            ),
        ),
        (
            OPEN_FILES,
            LIMITS,
            "no more files could be opened: the session's limit is 1024 (session_open_files)",
        ),
        (MEMORY, UNLIMITED, None),
        (THREADS, UNLIMITED, None),
    ],
)
def test_limits(shortage: Shortage, limits: SessionLimits, expected: str | None) -> None:
    """Only limits that are enforced are named, with the names of their settings."""
    assert limits.describe(shortage) == expected


def test_error_for_want_of_memory() -> None:
    """A program that goes on living is told the limit; its exit code and cause stay."""
    end = explain_end(ExecutionEnd(1, ExceptionInfo("MemoryError", "", [])), "", LIMITS)
    expected = "out of memory: the session's limit is 2 GiB (session_memory)"
    assert describe_end(end, LIMITS, 1, LOSES_VARIABLES) == expected
    assert (end.exit_code, end.exit_info, end.state) == (1, None, "preserved")


def test_interrupt_that_nobody_sent() -> None:
    """A library that interrupts its own process says why; an interrupt of a caller needs none."""
    words = "pthread_create failed for thread 1 of 2: Resource temporarily unavailable\n"
    end = explain_end(ExecutionEnd(130), words, LIMITS)
    assert (describe_end(end, LIMITS, 1, LOSES_VARIABLES) or "").startswith("no more threads")
    asked_for = ExecutionEnd(130, interrupted=True)
    assert explain_end(asked_for, words, LIMITS) == asked_for


@pytest.mark.parametrize(
    ("info", "code", "own_end"),
    [
        (ExitInfo(signal=6), 134, "signal 6 (SIGABRT)"),
        (ExitInfo(signal=11), 139, "signal 11 (SIGSEGV)"),
        (ExitInfo(code=1), 1, "exit 1"),
    ],
)
def test_death_for_want_of_memory(info: ExitInfo, code: int, own_end: str) -> None:
    """The cause of a process that died of it names the limit; the exit code is its own."""
    end = ExecutionEnd(code, state="lost", exit_info=info)
    explained = explain_end(end, "memory allocation of 9 bytes failed\nAborted\n", LIMITS)
    assert explained.exit_info is not None
    assert explained.exit_info.description == f"out of memory at 2048 MB: {own_end}"
    assert explained.exit_info.exit_code == code
    line = describe_end(explained, LIMITS, 1, LOSES_VARIABLES)
    expected = "out of memory: the session's limit is 2 GiB (session_memory)"
    assert line == f"{expected}{LOSES_VARIABLES}"
    assert explain_end(end, "Aborted\n", LIMITS) == end
    assert explain_end(end, "memory allocation of 9 bytes failed\n", UNLIMITED) == end


@pytest.mark.parametrize(
    ("info", "in_a_run", "between"),
    [
        (ExitInfo(reason="out of memory at 512 MB"), "out of memory at 512 MB", ", between two"),
        (ExitInfo(signal=11), "killed by signal 11 (SIGSEGV)", ", between two runs"),
        (ExitInfo(code=7), "the kernel ended: exit 7", ", between two runs"),
        (ExitInfo(reason=EndReason.RESTARTED), "restarted by request", ""),
        (ExitInfo(reason=EndReason.STOPPED), "the server was restarted", ""),
        (ExitInfo(reason=EndReason.TIMEOUT), "timeout", ""),
        (ExitInfo(reason=EndReason.INTERRUPTED), "interrupted", ""),
        (
            ExitInfo(signal=6, explanation="out of memory at 64 MB"),
            "out of memory at 64 MB: signal 6 (SIGABRT)",
            "",
        ),
        (ExitInfo(reason="the kernel stopped answering"), "the kernel stopped answering", ""),
    ],
)
def test_loss(info: ExitInfo, in_a_run: str, between: str) -> None:
    """The next run is told why variables are lost, and that no run saw it."""
    assert describe_loss(info, between_runs=False).startswith(in_a_run)
    assert describe_loss(info, between_runs=True).startswith(in_a_run)
    assert between in describe_loss(info, between_runs=True)
    assert loss_notice("why") == "variables were lost: why"
