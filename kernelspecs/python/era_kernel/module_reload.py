"""Lets a run see the user's modules as they are on disk, not as an earlier run imported them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType

FileStamp = tuple[int, int, int] | None


class ModuleReloader:
    """Knows the modules that were imported from the workspace, and the state of their files."""

    def __init__(self, workspace: Path) -> None:
        self._workspace_prefix = f"{workspace.resolve()}{os.sep}"
        self._stamps: dict[str, FileStamp] = {}
        self._last_name = next(reversed(sys.modules), "")

    def remember_imports(self) -> None:
        """Remembers what this run imported. `sys.modules` is in the order of imports."""
        new_names = []
        for name in reversed(sys.modules):
            if name == self._last_name:
                break
            new_names.append(name)
        if new_names:
            self._last_name = new_names[0]
        for name in new_names:
            file = self._workspace_file(sys.modules.get(name))
            if file is not None:
                self._stamps[name] = _stat_file(file)

    def forget_changed(self) -> None:
        """Forgets the modules whose files changed, and those that imported something from them."""
        for path, finder in sys.path_importer_cache.items():
            if finder is not None and (path + os.sep).startswith(self._workspace_prefix):
                finder.invalidate_caches()
        changed = {
            name for name, stamp in self._stamps.items() if self._current_stamp(name) != stamp
        }
        found = changed
        while found:
            found = {
                name for name in self._stamps.keys() - changed if self._depends_on(name, changed)
            }
            changed |= found
        for name in changed:
            sys.modules.pop(name, None)
            del self._stamps[name]
        self._last_name = next(reversed(sys.modules))  # what is imported again comes after it

    def _current_stamp(self, name: str) -> FileStamp:
        file = self._workspace_file(sys.modules.get(name))
        return None if file is None else _stat_file(file)

    def _workspace_file(self, module: ModuleType | None) -> str | None:
        """Returns the module's file when that lies in the workspace, else None."""
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            return None
        return file if f"{Path.cwd() / file}".startswith(self._workspace_prefix) else None

    def _depends_on(self, name: str, changed: set[str]) -> bool:
        """Returns whether a module uses a changed one.

        It does when it holds that module, or a class or function of it, or names it in an import.
        """
        module = sys.modules.get(name)
        if module is None:
            return False
        values = tuple(vars(module).values())
        if any(_defining_module(value) in changed for value in values):
            return True
        names = "|".join(re.escape(full_name.rpartition(".")[2]) for full_name in changed)
        imports = re.compile(rf"^\s*(from|import)\b.*\b({names})\b", re.MULTILINE)
        return imports.search(_read_source(module)) is not None


def _defining_module(value: object) -> str | None:
    """Returns a module's name, or that of the module which defines a class or function."""
    if isinstance(value, ModuleType):
        return value.__name__
    origin = getattr(value, "__module__", None) if callable(value) else None
    return origin if isinstance(origin, str) else None


def _read_source(module: ModuleType) -> str:
    try:
        return Path(str(module.__file__)).read_text(errors="replace")
    except OSError:
        return ""


def _stat_file(file: str) -> FileStamp:
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
