"""docs/languages.md shows the conformance table as the rows and columns of the tests declare it."""

from __future__ import annotations

import re

from era_kernels.kernels.kernel_json import EraMetadata
from tests.languages.conformance import cases
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows import ROWS
from tests.languages.table import PAGE, declared_outcomes, render, table_of


def test_table() -> None:
    """The page has every row, column and reason: write it anew with tests.languages.table."""
    assert table_of(PAGE.read_text("utf-8")) == render(declared_outcomes())


def test_a_table_that_says_less() -> None:
    """A run in which a row does not hold, or is not tried, gives another table."""
    declared = dict(declared_outcomes())
    cell = next(iter(declared))
    assert render({**declared, cell: "?"}) != render(declared)
    del declared[cell]
    assert render(declared) != render(declared_outcomes())


def test_cells() -> None:
    """Each row has a cell for each kernel, and what is not tried is told as such."""
    lines = [line for line in table_of(PAGE.read_text("utf-8")).splitlines() if line[:1] == "|"]
    assert len(lines) == len(ROWS) + 2
    cells = [cell.strip() for line in lines[2:] for cell in line.split("|")[3:-1]]
    assert len(cells) == len(ROWS) * len(ALL_PROGRAMS)
    tried = [cell for cell in cells if re.match(r"yes|\*\*no\*\*", cell)]
    assert len(tried) == len(cases(ALL_PROGRAMS))


def test_keys_of_the_metadata() -> None:
    """The page explains every key that `metadata.era_kernels` may have."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", PAGE.read_text("utf-8"), re.MULTILINE)
    told = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert told >= set(EraMetadata.model_fields)
