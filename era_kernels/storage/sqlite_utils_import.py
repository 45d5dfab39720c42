"""Imports sqlite_utils without pandas and numpy.

Where pandas and numpy are installed (for the code in sessions), sqlite_utils imports both, only to
know their types. That would cost every start of the server half a second and 45 MB, and there is no
switch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden_modules(*names: str) -> Iterator[None]:
    """Makes imports of these modules fail, by None in `sys.modules`.

    Modules that are loaded already stay.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden_modules("pandas", "numpy"):
    from sqlite_utils import Database, Migrations

__all__ = ["Database", "Migrations"]
