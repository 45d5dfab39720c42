"""Tells which processes of multiprocessing belong to an executor or a manager.

They live until that is shut down, at the latest at the end of the program: a run does not wait for
them, and later runs go on using them.
"""

from __future__ import annotations

from sys import modules
from types import ModuleType
from typing import Any


def executor_processes() -> set[Any]:
    """Returns the processes of executors and managers that are open."""
    found: set[Any] = set()
    for thread in _copy(_find("concurrent.futures.process", "_threads_wakeups")):
        found.update(_copy(getattr(thread, "processes", {})).values())
    for finalizer in _copy(_find("multiprocessing.util", "_finalizer_registry")).values():
        callback = getattr(finalizer, "_callback", None)
        if getattr(callback, "__name__", None) == "_finalize_manager":
            found.update(finalizer._args[:1])
    return found


def _find(module_name: str, name: str) -> Any:
    """Returns a variable of a module, if that is imported; else an empty dictionary."""
    module = modules.get(module_name)
    return vars(module).get(name, {}) if type(module) is ModuleType else {}


def _copy(mapping: Any) -> dict[Any, Any]:
    """Copies a dictionary that threads may change meanwhile."""
    for _ in range(10):
        try:
            return dict(mapping or {})
        except RuntimeError:
            continue
    return {}
