"""The conformance table: what every kernel must show, a test for each of its cells.

`python -m tests.languages.table` runs this module, and writes what it finds into docs/languages.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from era_kernels.kernels.languages import Languages
from tests.languages.conformance import OUTCOME, Sessions, cases, open_sessions
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows import ROWS
from tests.languages.rows.state import check_many_runs
from tests.languages.rows.table_rows import Row

FEWER_RUNS = dataclasses.replace(
    ROWS["five_hundred_runs"],
    try_it=lambda session, hello: check_many_runs(session, hello, 60),
)
# Capabilities that are tried by a language's own tests.
WITHOUT_ROWS = {"async"}


@pytest.fixture(scope="module")
def sessions(kernelspec_dirs: list[Path]) -> Iterator[Sessions]:
    """Sessions of a server that has all kernels."""
    with open_sessions(kernelspec_dirs) as sessions:
        yield sessions


@pytest.mark.parametrize(("programs", "row"), cases(ALL_PROGRAMS))
def test_row(
    sessions: Sessions,
    programs: KernelPrograms,
    row: Row,
    record_property: Callable[[str, object], None],
) -> None:
    """A row of the table holds for a kernel that claims it."""
    record_property(OUTCOME, (row.name, programs.column))
    sessions.try_row(programs, row)


@pytest.mark.parametrize("programs", ALL_PROGRAMS, ids=lambda programs: programs.column)
def test_many_runs(sessions: Sessions, programs: KernelPrograms) -> None:
    """The short form of 500 runs: a session serves 60 by one kernel."""
    sessions.try_row(programs, FEWER_RUNS)


@pytest.mark.parametrize("programs", ALL_PROGRAMS, ids=lambda programs: programs.column)
def test_programs(programs: KernelPrograms) -> None:
    """Each program that cannot be written, and each row that does not hold, has its reason."""
    assert set(programs.missing) <= set(programs.not_expressible)
    assert all(getattr(programs, name) is None for name in programs.not_expressible)
    tried = {case.values[1].name for case in cases([programs])}  # type: ignore[union-attr]
    assert set(programs.does_not_hold) <= tried
    assert set(programs.untried) <= set(ROWS)
    for told in (programs.not_expressible, programs.does_not_hold, programs.untried):
        assert all(len(reason.split()) >= 4 for reason in told.values())


def test_capabilities(kernelspec_dirs: list[Path]) -> None:
    """The columns claim what the folders of their kernels claim, and each claim has a row."""
    languages = Languages.load(kernelspec_dirs)
    for programs in ALL_PROGRAMS:
        kernelspec = languages.resolve(programs.language).kernel(programs.kernel)
        assert set(kernelspec.capabilities) == programs.capabilities, programs.column
    tried = {row.capability for row in ROWS.values()}
    assert {name for one in ALL_PROGRAMS for name in one.capabilities} - WITHOUT_ROWS <= tried


def test_rows() -> None:
    """A row's sentence ends as one, and its programs are known."""
    for row in ROWS.values():
        assert row.shows.endswith("."), row.name
        assert set(row.needs) <= set(KernelPrograms.__dataclass_fields__), row.name
