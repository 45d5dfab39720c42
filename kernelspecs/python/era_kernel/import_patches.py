"""Patches modules of the standard library when a program imports them, and not before."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], object]


def install(patches: Mapping[str, Patch]) -> None:
    """Sets what is done to each of these modules after its import."""
    waiting = dict(patches)
    for name in patches:
        if name in sys.modules:
            waiting.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _PatchingFinder(waiting))


class _PatchingFinder:
    """Finds the modules like the real finders, each once, and is gone when all are found."""

    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patch = self._patches.pop(name, None)
        if patch is None:
            return None
        if not self._patches and self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                patch(module)

            loader.exec_module = execute_and_patch
        return spec
