"""Tells `inspect` in which cell a class was defined; it asks the file of the class's module."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import wraps
from inspect import unwrap
from sys import modules
from types import FunctionType
from typing import Any

from era_kernel import run_context
from era_kernel.tracebacks import CellSources


def install(sources: CellSources) -> None:
    """Patches `inspect.getfile`, on which the functions for sources and files rest."""
    get_file = inspect.getfile

    @wraps(get_file)
    def get_cell_or_file(object: Any) -> str:  # noqa: A002 - as it is called there
        try:
            return get_file(object)
        except (TypeError, OSError):
            found = _find_cell(object, sources)
            if found is None:
                raise
            return found

    inspect.getfile = get_cell_or_file


def patch_doctest(doctest: Any) -> None:
    """Makes reports of failures name the cell where they would name a program's file."""
    get_test = doctest.DocTestFinder._get_test

    @wraps(get_test)
    def get_test_of_cell(self: Any, obj: Any, *args: Any) -> Any:
        test = get_test(self, obj, *args)
        if test is not None and test.filename == "__main__":
            with suppress(TypeError, OSError):
                test.filename = inspect.getfile(unwrap(obj))
        return test

    doctest.DocTestFinder._get_test = get_test_of_cell


def _find_cell(value: Any, sources: CellSources) -> str | None:
    """Returns the name of the cell with this class, or the current one for `__main__` itself."""
    if value is modules.get("__main__"):
        name = f"<cell {run_context.current().number}>"
        return name if name in sources.lines else None
    if not isinstance(value, type) or value.__module__ != "__main__":
        return None
    functions = (unwrap(getattr(found, "__func__", found)) for found in vars(value).values())
    for function in functions:
        if isinstance(function, FunctionType) and (
            function.__qualname__.startswith(f"{value.__qualname__}.")
            and function.__code__.co_filename in sources.lines
        ):
            return function.__code__.co_filename
    beginnings = (f"class {value.__name__}:", f"class {value.__name__}(")
    for name in reversed(sources.lines):
        if any(line.lstrip().startswith(beginnings) for line in sources.lines[name]):
            return name
    return None
