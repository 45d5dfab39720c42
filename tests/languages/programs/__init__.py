"""The columns of the conformance table: a module for each kernel, with a `PROGRAMS`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.languages.kernel_programs import KernelPrograms

# Those that come with the package first, then those that show how others are added.
ALL_PROGRAMS: list[KernelPrograms] = sorted(
    (import_module(f"{__name__}.{module.name}").PROGRAMS for module in iter_modules(__path__)),
    key=lambda programs: (programs.add_to is not None, programs.column),
)
