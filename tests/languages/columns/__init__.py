"""The languages of the conformance table: a module each, with a `COLUMN`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.languages.column import Column

COLUMNS: list[Column] = [
    import_module(f"{__name__}.{module.name}").COLUMN for module in iter_modules(__path__)
]
