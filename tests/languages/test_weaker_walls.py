"""Kernels that are added to the server need no namespaces: their rows hold without any, too.

In tier 3 they need a uid for each session, which depends on where the interpreter lies: tier 4 has
no namespaces either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.languages.conformance import Sessions, cases, open_sessions
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows.table_rows import Row
from tests.server_process import UNSANDBOXED_FLAGS

ADDED = [programs for programs in ALL_PROGRAMS if programs.add_to is not None]
# Rows in which walls take part: in processes, their ends, files and environment. What only prints
# shows with one row that it gets to the server. Without a bound `out_of_memory` would take all that
# the host has.
OF_WALLS = {
    "hello", "many_lines", "late_output", "state", "failure_keeps_state", "exit_keeps_state",
    "timeout_tells_state", "two_sessions_apart", "timeout_of_a_sleep", "timeout_of_a_loop",
    "timeout_of_a_pending_await", "timeout_of_native_code", "killed", "segfault", "written_file",
    "uploaded_module", "edited_module", "interrupt", "answered_input", "stack", "variables",
}  # fmt: skip


@pytest.fixture(scope="module")
def sessions(kernelspec_dirs: list[Path]) -> Iterator[Sessions]:
    """Sessions of a server that has all kernels, and no namespaces."""
    with open_sessions(kernelspec_dirs, *UNSANDBOXED_FLAGS) as sessions:
        assert sessions.client.http.get("/health").json()["isolation"]["tier"] == 4
        yield sessions


@pytest.mark.parametrize(
    ("programs", "row"),
    [case for case in cases(ADDED) if case.values[1].name in OF_WALLS],  # type: ignore[union-attr]
)
def test_row(sessions: Sessions, programs: KernelPrograms, row: Row) -> None:
    """A row that walls can change holds for a kernel that claims it."""
    sessions.try_row(programs, row)
