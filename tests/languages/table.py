"""Writes the conformance table: `python -m tests.languages.table` puts it into docs/languages.md.

The rows are tried with every kernel, on this host. Nothing is written when one of them does not end
as its column declares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.languages.conformance import OUTCOME, cases, cell_without_a_run
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows import ROWS
from tests.languages.rows.table_rows import Row

PAGE = Path(__file__).parents[2] / "docs" / "languages.md"
MODULE = Path(__file__).with_name("test_every_language.py")
BEGIN = "<!-- The table: python -m tests.languages.table writes it. -->"
END = "<!-- The end of the table. -->"
HOLDS, FAILS, UNTRIED, LEFT_OUT = "yes", "**no**", "?", "untried"
NOT_CLAIMED, NOT_EXPRESSIBLE = "\u2013", "\u00b7"  # a dash and a dot

Outcomes = Mapping[tuple[str, str], str]  # of a row and a column


class OutcomeCollector:
    """Collects the outcomes of the table's tests (a plugin of pytest)."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the report of a test that tells its row and column."""
        cell = dict(report.user_properties).get(OUTCOME)
        if isinstance(cell, tuple) and report.when == "call":
            if hasattr(report, "wasxfail"):
                self.outcomes[cell] = FAILS
            elif report.passed:
                self.outcomes[cell] = HOLDS


def declared_outcomes() -> Outcomes:
    """Returns the outcomes that a run has when all of its tests pass."""
    outcomes = {}
    for case in cases(ALL_PROGRAMS):
        programs, row = case.values
        assert isinstance(programs, KernelPrograms)
        assert isinstance(row, Row)
        is_exception = row.name in programs.does_not_hold
        outcomes[row.name, programs.column] = FAILS if is_exception else HOLDS
    return outcomes


def render(outcomes: Outcomes) -> str:
    """Returns the table in Markdown, with the reasons below it."""
    notes: dict[str, int] = {}
    lines = [
        f"| what holds | capability | {' | '.join(one.column for one in ALL_PROGRAMS)} |",
        "|---" * (len(ALL_PROGRAMS) + 2) + "|",
    ]
    for row in ROWS.values():
        cells = [_cell(row, programs, outcomes, notes) for programs in ALL_PROGRAMS]
        capability = f"`{row.capability}`" if row.capability else ""
        lines.append(f"| {row.shows.rstrip('.')} | {capability} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note}." for note, number in notes.items())])


def _cell(row: Row, programs: KernelPrograms, outcomes: Outcomes, notes: dict[str, int]) -> str:
    reason = cell_without_a_run(programs, row)
    if reason == "":
        return NOT_CLAIMED
    mark = LEFT_OUT if row.name in programs.untried else NOT_EXPRESSIBLE
    if reason is None:
        mark = outcomes.get((row.name, programs.column), UNTRIED)
        reason = programs.does_not_hold.get(row.name)
    if reason is None:
        return mark
    number = notes.setdefault(f"{programs.column}: {reason}", len(notes) + 1)
    return f"{mark} ({number})"


def table_of(page: str) -> str:
    """Returns what stands between the markers of a page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> int:
    """Runs the tests of the table and writes it. Returns the exit code of pytest."""
    collector = OutcomeCollector()
    code = int(pytest.main(["-q", "-n", "0", str(MODULE), *sys.argv[1:]], plugins=[collector]))
    untried = sorted(declared_outcomes().keys() - collector.outcomes.keys())
    if code == 0 and untried:
        print("not written, for these were not tried:", *untried, sep="\n  ")
        return 1
    if code == 0:
        page = PAGE.read_text("utf-8")
        text = f"{BEGIN}\n\n{render(collector.outcomes)}\n\n{END}"
        pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        PAGE.write_text(re.sub(pattern, lambda _: text, page, flags=re.DOTALL), "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
