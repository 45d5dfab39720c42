"""The rows of the conformance table, in the order in which they stand there."""

from __future__ import annotations

from tests.languages.rows import (
    deno_programs,
    ends,
    go_programs,
    inside,
    javascript,
    output,
    state,
    surroundings,
)
from tests.languages.rows.table_rows import ROWS

__all__ = [
    "ROWS",
    "deno_programs",
    "ends",
    "go_programs",
    "inside",
    "javascript",
    "output",
    "state",
    "surroundings",
]
