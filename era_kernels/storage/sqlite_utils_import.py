"""sqlite_utils, loaded without pandas and numpy.

Where they are installed (for the code in sessions) it imports both, only to know their types. That
would cost every start of the server half a second and 45 MB, and there is no switch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden_modules(*names: str) -> Iterator[None]:
    """Importing these modules fails meanwhile, as None in `sys.modules` means to the import system.

    Those that are loaded already are left alone.
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
