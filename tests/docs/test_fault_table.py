"""The table of faults in docs/executions.md names existing tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "executions.md").read_text("utf-8").partition("## What happens when")[2]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions(file: str) -> set[str]:
    """Returns the names of a test file's functions."""
    path = ROOT / file
    tree = ast.parse(path.read_text("utf-8")) if path.exists() else ast.Module([], [])
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_fault_has_a_test() -> None:
    """Each line of the table names at least one test."""
    assert len(ROWS) > 10
    assert [row for row in ROWS if not NAMED.search(row)] == []


def test_every_named_test_exists() -> None:
    """Every test that the table names exists."""
    missing = [name for name in NAMED.findall(TABLE) if name[1] not in functions(name[0])]
    assert missing == []
