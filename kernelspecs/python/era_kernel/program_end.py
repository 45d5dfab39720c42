"""Ends a program as the interpreter ends: exit functions, then the destructors of what is left.

The order is that of `Py_FinalizeEx` of CPython: threads, exit functions, then the modules of the
program become garbage together, so that destructors still find their globals.
"""

from __future__ import annotations

import sys
import threading
from atexit import _run_exitfuncs as run_exit_functions
from collections.abc import Callable
from contextlib import suppress
from gc import collect
from sys import modules, version_info
from types import ModuleType, SimpleNamespace
from typing import Any

from era_kernel.module_reload import find_last_name, list_newest
from era_kernel.shell import EraShell
from era_kernel.tracebacks import get_traceback

Call = Callable[[Callable[[], object]], BaseException | None]

_shut_down_threads = threading._shutdown  # type: ignore[attr-defined]
_SHUTDOWN_MESSAGE = (
    (f"Exception ignored on threading shutdown {threading!r}", None)
    if version_info >= (3, 13)
    else (None, threading)
)
_get_namespace = vars(ModuleType)["__dict__"].__get__
_LIBRARY_PREFIXES = (sys.prefix, sys.base_prefix)
# A set of all would be made anew in each fork, where a look at each name copies memory.
_first_modules = frozenset(name for name in modules if type(name) is str)
_last_of_first = find_last_name()
_LAST_ERROR_NAMES = ("last_exc", "last_type", "last_value", "last_traceback")


class ProgramEnd:
    """Knows which modules are not the program's own, and ends the program on request."""

    def __init__(self, shell: EraShell) -> None:
        self._shell = shell
        self._other_modules = frozenset(name for name, _ in list_newest(_last_of_first)[0])

    def run(self, call: Call) -> None:
        """Ends the program; `call` calls code of the program, and returns what that raised."""
        problem = call(_shut_down_threads)
        if problem is not None:
            call(lambda: _tell_of_shutdown(problem))
        call(run_exit_functions)
        threading.excepthook = _ignore  # daemon threads go on, without what they need
        call(self._drop_program)
        call(collect)

    def _drop_program(self) -> None:
        """Drops all references to the program's modules, its variables and its last error."""
        for name in _LAST_ERROR_NAMES:
            with suppress(AttributeError):
                delattr(sys, name)
        for name in reversed(list(modules)):
            module = modules[name]
            is_initial = name in _first_modules or name in self._other_modules
            if not is_initial and type(module) is ModuleType:
                file = _get_namespace(module).get("__file__")
                if type(file) is str and not file.startswith(_LIBRARY_PREFIXES):
                    del modules[name]
            del module
        self._shell.drop_program()


def _tell_of_shutdown(problem: BaseException) -> None:
    """Tells what kept the program from waiting for its threads, as the interpreter does."""
    message, source = _SHUTDOWN_MESSAGE
    arguments: Any = SimpleNamespace(
        exc_type=type(problem),
        exc_value=problem,
        exc_traceback=get_traceback(problem),
        err_msg=message,
        object=source,
    )
    sys.unraisablehook(arguments)


def _ignore(args: object) -> None:
    """Prints nothing."""
