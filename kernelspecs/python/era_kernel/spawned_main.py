"""The main module of a child process that multiprocessing spawns: the definitions of the cells.

This module is executed in the child, too, from its source; so it imports the standard library only.
"""

from __future__ import annotations

import ast
import importlib.util
import linecache
import marshal
import os
import sys
import tempfile
from types import CodeType
from typing import Any

_UNPICKLE = "exec(setup, module) or module['prepare_child'](setup, programs)"

# A cell's name, source and `__future__` flags, and the statements of it that count; None: it is
# run as a whole.
Program = tuple[str, str, int, list[int] | None]


class SpawnedMain:
    """Stands for the path of the main module; in the child it becomes one that can be run there."""

    def __init__(self, setup: str, programs: list[Program]) -> None:
        self._data = {"setup": setup, "programs": programs, "module": {"__name__": "era_cells"}}

    def __reduce__(self) -> Any:
        return eval, (_UNPICKLE, self._data)


def patch(spawn: Any, make_main: Any) -> None:
    """Makes `multiprocessing.spawn` tell a child of this main module; `make_main` returns it."""
    get_data = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = get_data(name)
        # "ignore" is the name for the server of forks, which outlives the cell.
        if name != "ignore" and "init_main_from_name" not in data:
            main = make_main()
            if main is not None:
                data["init_main_from_path"] = main
        return data

    spawn.get_preparation_data = get_preparation_data


def prepare_child(setup: str, programs: list[Program]) -> str:
    """Makes the main module in the child; returns the path of a file with its code."""
    import multiprocessing.spawn

    patch(multiprocessing.spawn, lambda: SpawnedMain(setup, programs))
    sys.excepthook = _print_error
    for name, source, _, _ in programs:
        lines = [line + "\n" for line in source.split("\n")]
        linecache.cache[name] = (len(source), None, lines, name)
    data = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(_make_code(programs))
    try:
        descriptor = os.memfd_create("cells")
    except OSError:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, data)
    return f"/proc/self/fd/{descriptor}"


def _print_error(*error: Any) -> None:
    """Prints an uncaught error with its lines, which the interpreter looks for in files only."""
    import traceback

    traceback.print_exception(*error)


def _make_code(programs: list[Program]) -> CodeType:
    """Returns the code of the module; what cannot be defined is left out, as if it had not been."""
    if len(programs) == 1 and programs[0][3] is None:
        name, source, flags, _ = programs[0]
        return compile(source, name, "exec", flags, True)
    codes: list[CodeType] = []
    lines: list[str] = []
    for name, source, flags, kept in programs:
        if kept is None:
            lines.append(f"exec('code {len(codes)}')")
            codes.append(compile(source, name, "exec", flags, True))
            continue
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, True)
        for at in kept:
            lines.append(f"try: exec('code {len(codes)}')\nexcept Exception: pass")
            statement = ast.Module([tree.body[at]], [])
            codes.append(compile(statement, name, "exec", flags, True))
    driver = compile("\n".join(lines), "<cells>", "exec")
    names = {f"code {number}": code for number, code in enumerate(codes)}
    constants = (names.get(value, value) for value in driver.co_consts)
    return driver.replace(co_consts=tuple(constants))
