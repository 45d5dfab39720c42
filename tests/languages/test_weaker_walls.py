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

# Without a bound the first would take all that the host has; the second is the same in any walls.
LEFT_OUT = {"out_of_memory", "five_hundred_runs"}
ADDED = [programs for programs in ALL_PROGRAMS if programs.add_to is not None]


def is_of_walls(row: Row) -> bool:
    """Returns whether walls take part in a row: in processes, their ends, files and environment.

    What only prints, in a session that others use, shows with one row that it gets to the server.
    """
    return row.name not in LEFT_OUT and (not row.leaves_nothing or row.name == "hello")


@pytest.fixture(scope="module")
def sessions(kernelspec_dirs: list[Path]) -> Iterator[Sessions]:
    """Sessions of a server that has all kernels, and no namespaces."""
    with open_sessions(kernelspec_dirs, *UNSANDBOXED_FLAGS) as sessions:
        assert sessions.client.http.get("/health").json()["isolation"]["tier"] == 4
        yield sessions


@pytest.mark.parametrize(
    ("programs", "row"),
    [case for case in cases(ADDED) if is_of_walls(case.values[1])],  # type: ignore[arg-type]
)
def test_row(sessions: Sessions, programs: KernelPrograms, row: Row) -> None:
    """A row that walls can change holds for a kernel that claims it."""
    sessions.try_row(programs, row)
