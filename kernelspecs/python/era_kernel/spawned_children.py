"""Lets children that multiprocessing spawns find what the cells of a session define.

A plain program's children import its file. A session has none: its children get the current cell,
run as that file would be when the cell asks for its `__name__`, and what earlier cells define:
imports, functions, classes and constants, and nothing that does something.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from types import ModuleType

from era_kernel import run_context, spawned_main
from era_kernel.tracebacks import CellProgram, CellSources

_SETUP = Path(spawned_main.__file__).read_text()

_DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
)
# What a constant may be made by, a few words to a line.
_MAKERS = {
    *("bytes", "complex", "dict", "float", "frozenset", "int", "len", "list", "max", "min"),
    *("range", "set", "sorted", "str", "sum", "tuple"),
    *("Decimal", "Fraction", "Path", "compile", "getLogger", "partial", "timedelta"),
    *("Enum", "IntEnum", "NamedTuple", "TypedDict", "make_dataclass", "namedtuple"),
    *("Literal", "NewType", "ParamSpec", "TypeVar"),
}
_DOING = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)


def patch(spawn: ModuleType, sources: CellSources) -> None:
    """Patches `multiprocessing.spawn`."""
    spawned_main.patch(spawn, lambda: make_main(sources))


def make_main(sources: CellSources) -> spawned_main.SpawnedMain | None:
    """Returns the main module for children of the current cell; None when there is no cell."""
    current = f"<cell {run_context.current().number}>"
    programs: list[spawned_main.Program] = []
    for name, program in list(sources.programs.items()):
        statements = _parse(program)
        kept: list[int] | None = None
        if name != current or not program.is_plain or not any(map(_is_guard, statements)):
            kept = [at for at, statement in enumerate(statements) if _is_definition(statement)]
        if kept is None or kept:
            programs.append((name, program.source, program.flags, kept))
    return spawned_main.SpawnedMain(_SETUP, programs) if programs else None


def _parse(program: CellProgram) -> list[ast.stmt]:
    """Returns a cell's statements; none when they are too deep for a tree."""
    flags = program.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    try:
        with warnings.catch_warnings(action="ignore"):
            return compile(program.source, "<cell>", "exec", flags, True).body
    except (RecursionError, MemoryError):
        return []


def _is_guard(statement: ast.stmt) -> bool:
    """Returns whether this is `if __name__ == "__main__"`, so that children can run the cell."""
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _is_definition(statement: ast.stmt) -> bool:
    if isinstance(statement, _DEFINITIONS):
        return True
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return statement.value is not None and _is_constant(statement.value)
    if isinstance(statement, ast.If):
        return _is_constant(statement.test) and all(
            map(_is_definition, statement.body + statement.orelse)
        )
    if isinstance(statement, ast.Try):
        handlers = [inner for handler in statement.handlers for inner in handler.body]
        parts = statement.body + handlers + statement.orelse + statement.finalbody
        return all(map(_is_definition, parts))
    return isinstance(statement, ast.Pass)


def _is_constant(value: ast.expr) -> bool:
    """Returns whether an expression only makes a value."""
    for node in ast.walk(value):
        if isinstance(node, _DOING):
            return False
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            if name not in _MAKERS:
                return False
    return True
