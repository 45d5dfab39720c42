"""The languages of the conformance table: a module each, with a `PROGRAMS`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.languages.language_programs import LanguagePrograms

ALL_PROGRAMS: list[LanguagePrograms] = [
    import_module(f"{__name__}.{module.name}").PROGRAMS for module in iter_modules(__path__)
]
