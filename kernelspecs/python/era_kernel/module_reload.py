"""Lets a run see the user's modules as they are on disk, not as an earlier run imported them.

What is in `sys.modules` may be any object. No code of the program is run when it is looked at: only
the namespaces of true modules are read, by the descriptors of `types.ModuleType` itself, so a lazy
module is not loaded either. Modules that the program did not import are not touched: in a fork of a
warm interpreter Linux copies a page of memory for each of them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.machinery import FileFinder
from itertools import islice
from os import O_CLOEXEC, O_NONBLOCK, O_RDONLY, fdopen, sep, stat
from os import open as open_descriptor
from pathlib import Path
from re import MULTILINE, escape
from re import compile as compile_pattern
from stat import S_ISREG
from types import FunctionType, ModuleType
from typing import Any

NEWEST = 16  # modules that are looked at first; most runs import few
MAX_SOURCE_BYTES = 16 * 1024 * 1024  # bytes of a module that is searched for imports

FileStamp = tuple[int, int, int] | None

_modules = sys.modules  # the interpreter's own, also when a program puts another in its place
_sys_names = vars(sys)
_get_mro, _get_type_module = type.__dict__["__mro__"].__get__, type.__dict__["__module__"].__get__
_get_namespace = ModuleType.__dict__["__dict__"].__get__
_get_function_module = FunctionType.__dict__["__module__"].__get__
_invalidate_caches = FileFinder.invalidate_caches


class ModuleReloader:
    """Knows the modules that were imported from the workspace, and the state of their files."""

    def __init__(self, workspace: Path) -> None:
        self._workspace_prefix = f"{workspace.resolve()}{sep}"
        self._stamps: dict[str, FileStamp] = {}
        self._last_name = find_last_name()

    def remember_imports(self) -> None:
        """Remembers what this run imported. `sys.modules` is in the order of imports."""
        newest, is_last_gone = list_newest(self._last_name)
        for name, module in newest:
            if is_last_gone and name in self._stamps:
                continue
            file = self._workspace_file(module)
            if file is not None:
                self._stamps[name] = _stat_file(file)
        if newest:
            self._last_name = newest[0][0]

    def forget_changed(self) -> None:
        """Forgets the modules whose files changed, and those that imported something from them."""
        self._invalidate_finders()
        if self._stamps:
            self._forget_changed(_list_modules())
        self._last_name = find_last_name()  # what is imported again comes after it

    def _forget_changed(self, modules: dict[str, object]) -> None:
        changed = {
            name
            for name, stamp in self._stamps.items()
            if self._current_stamp(modules.get(name)) != stamp
        }
        found = changed
        while found:
            found = {
                name
                for name in self._stamps.keys() - changed
                if _depends_on(modules.get(name), changed)
            }
            changed |= found
        for name in changed:
            with suppress(BaseException):  # a key of a class that raises when it is compared
                _modules.pop(name, None)
            del self._stamps[name]

    def _invalidate_finders(self) -> None:
        """Lets Python's own finders look into the folders of the workspace again."""
        cache = _sys_names.get("path_importer_cache")
        if type(cache) is not dict:
            return
        for path, finder in tuple(cache.items()):
            if (
                type(path) is str
                and type(finder) is FileFinder
                and (path + sep).startswith(self._workspace_prefix)
            ):
                _invalidate_caches(finder)

    def _current_stamp(self, module: object) -> FileStamp:
        file = self._workspace_file(module)
        return None if file is None else _stat_file(file)

    def _workspace_file(self, module: object) -> str | None:
        """Returns the module's file when that lies in the workspace, else None."""
        file = _read_name(module, "__file__")
        if file is None:
            return None
        if not file.startswith(sep):
            file = self._workspace_prefix + file
        return file if file.startswith(self._workspace_prefix) else None


def _list_modules() -> dict[str, object]:
    """Returns the modules whose names are names, in the order of their imports."""
    return {name: module for name, module in tuple(_modules.items()) if type(name) is str}


def list_newest(last: str) -> tuple[list[tuple[str, object]], bool]:
    """Returns the modules that were imported after that one, the newest first.

    Also tells whether that one is gone: then it returns all modules.
    """
    count = NEWEST
    while True:
        found = tuple(islice(reversed(_modules.items()), count))
        named = [(name, module) for name, module in found if type(name) is str]
        for position, (name, _) in enumerate(named):
            if name == last:
                return named[:position], False
        if len(found) < count:
            return named, True
        count *= 2


def find_last_name() -> str:
    """Returns the name of the newest module; an empty text if none of the newest has a name."""
    names = tuple(islice(reversed(_modules), NEWEST))
    return next((name for name in names if type(name) is str), "")


def _namespace(module: object) -> dict[str, Any]:
    """Returns the names of a module, also of a lazy one; an empty dictionary for other objects."""
    is_module = any(base is ModuleType for base in _get_mro(type(module)))
    namespace = _get_namespace(module) if is_module else None
    return namespace if type(namespace) is dict else {}


def _read_name(module: object, name: str) -> str | None:
    """Returns what a module has under a name, when that is a string."""
    value = None
    with suppress(BaseException):  # a key of a class that raises when it is compared
        value = _namespace(module).get(name)
    return value if type(value) is str else None


def _depends_on(module: object, changed: set[str]) -> bool:
    """Returns whether a module uses a changed one.

    It does when it holds that module, or a class or function of it, or names it in an import.
    """
    if any(_defining_module(value) in changed for value in tuple(_namespace(module).values())):
        return True
    names = "|".join(escape(full_name.rpartition(".")[2]) for full_name in changed)
    imports = compile_pattern(rf"^\s*(from|import)\b.*\b({names})\b", MULTILINE)
    return imports.search(_read_source(module)) is not None


def _defining_module(value: object) -> str | None:
    """Returns a module's name, or that of the module which defines a class or function."""
    kind = type(value)
    if kind is FunctionType:
        origin = _get_function_module(value)
    elif any(base is type for base in _get_mro(kind)):
        origin = _get_type_module(value)
    elif any(base is ModuleType for base in _get_mro(kind)):
        return _read_name(value, "__name__")
    else:
        origin = _get_type_module(kind) if callable(value) else None
    return origin if type(origin) is str else None


def _read_source(module: object) -> str:
    file = _read_name(module, "__file__")
    if file is None or _stat_file(file) is None:
        return ""
    try:
        descriptor = open_descriptor(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        with fdopen(descriptor, "rb") as stream:
            return stream.read(MAX_SOURCE_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _stat_file(file: str) -> FileStamp:
    """Returns the state of a regular file; None for others, and where there is none."""
    try:
        status = stat(file)  # noqa: PTH116 - a path's methods can be replaced by programs
    except (OSError, ValueError):  # also of a name that no file can have
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if S_ISREG(status.st_mode) else None
