"""The languages that have a storage SDK: a module for each, with a `PROGRAMS`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.languages.storage_programs.programs import StoragePrograms

ALL_STORAGE_PROGRAMS: list[StoragePrograms] = [
    import_module(f"{__name__}.{module.name}").PROGRAMS
    for module in iter_modules(__path__)
    if module.name != "programs"
]
