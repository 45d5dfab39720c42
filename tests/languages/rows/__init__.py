"""The rows of the conformance table, in the order in which they stand there."""

from __future__ import annotations

from tests.languages.rows import ends, inside, javascript, output, state, surroundings
from tests.languages.rows.table_rows import ROWS

__all__ = ["ROWS", "ends", "inside", "javascript", "output", "state", "surroundings"]
