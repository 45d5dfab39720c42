"""Keeps what programs put into the places of library functions and builtins away from the kernel.

A program may replace `json.dumps`, `os.getpid` or `builtins.isinstance`, for tests or by mistake;
the kernel and the libraries that it is made of go on using what was there when they were imported:

- They are imported with a copy of the builtins, which their functions are bound to.
- Modules of the standard library that their own global names refer to are copies, too.

The standard library itself is shared with the program, so its functions see what they should see.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from types import FunctionType, ModuleType
from typing import Any

PACKAGES = frozenset(
    {"era_kernel", "IPython", "comm", "ipykernel", "jupyter_client", "traitlets", "zmq"}
)
# Modules whose attributes are set, and are meant to be seen by everybody: `sys.stdout`, hooks.
SHARED_MODULES = frozenset({"sys", "builtins", "__main__"})
# Modules that put something of theirs into library modules, where the program is to find it.
PATCHING_MODULES = frozenset(
    f"era_kernel.{name}"
    for name in (
        "cell_files",
        "descriptor_patches",
        "excepthooks",
        "os_exec_patches",
        "flush_at_exit",
        "input_patches",
        "program_end",
        "program_loop",
        "program_signals",
        "stack_patches",
    )
)
# Modules in Python that the kernel cannot do without for a moment: they are loaded twice, so that
# their functions have the copy of the builtins, and call each other.
RELOADED_MODULES = ("ast", "contextlib", "enum", "tokenize", "linecache", "traceback")
# The second one is for modules of these names only: programs give enumerations of their own
# to the others.
RELOADED_FOR = {"enum": "zmq."}
# Functions of other modules that use builtins only; the copies of their modules have them bound.
REBOUND_FUNCTIONS = {"inspect": ("isclass",)}

private_builtins: dict[str, Any] = dict(vars(builtins))
_real_import = builtins.__import__
_getattr, _isinstance, _vars, _tuple = getattr, isinstance, vars, tuple
_modules = sys.modules
_library_names = sys.stdlib_module_names
_copies: dict[str, ModuleType] = {}
_bound: set[str] = set()


class ModuleCopy(ModuleType):
    """A module's attributes as they were; what came later is read from the module itself."""

    def __init__(self, original: ModuleType) -> None:
        super().__init__(original.__name__, original.__doc__)
        _vars(self).update(_vars(original), _original=original)

    def __getattr__(self, name: str) -> Any:
        return _getattr(_vars(self)["_original"], name)


class _Loader(SourceFileLoader):
    """Runs a module's code with the private builtins, which its functions are bound to then."""

    def exec_module(self, module: ModuleType) -> None:
        _vars(module)["__builtins__"] = private_builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of PACKAGES only."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _import(
    name: str,
    globals: Any = None,  # noqa: A002 - as it is called by the interpreter
    locals: Any = None,  # noqa: A002
    fromlist: Any = (),
    level: int = 0,
) -> Any:
    """Imports for the modules of PACKAGES: what is loaded twice they get as the second."""
    if level == 0 and name in RELOADED_MODULES and name in _copies:
        importer = globals["__name__"] if globals else ""
        if importer.startswith(RELOADED_FOR.get(name, "")):
            return _copies[name]
    return _real_import(name, globals, locals, fromlist, level)


def begin() -> None:
    """Binds the modules of PACKAGES that are imported from here on."""
    private_builtins["__import__"] = _import
    for name in RELOADED_MODULES:
        _copies[name] = _load_again(name)
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


def bind_modules() -> None:
    """Replaces the library modules that the imported modules of PACKAGES refer to by copies."""
    for name, module in _tuple(_modules.items()):
        if name in _bound | PATCHING_MODULES or name.partition(".")[0] not in PACKAGES:
            continue
        _bound.add(name)
        namespace = _vars(module)
        for key, value in _tuple(namespace.items()):
            if type(value) is ModuleType and _is_copied(value):
                namespace[key] = _copy(value)


def end() -> None:
    """Ends the binding before the program runs: what it imports itself is not touched."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _Finder]


def _is_copied(module: ModuleType) -> bool:
    name = module.__name__
    if name in RELOADED_FOR:
        return False
    return name.partition(".")[0] in _library_names and name not in SHARED_MODULES


def _copy(module: ModuleType) -> ModuleType:
    """Returns the one copy of a module; the modules that it refers to are copies, too."""
    name = module.__name__
    if name not in _copies:
        copy = _copies[name] = ModuleCopy(module)
        namespace = _vars(copy)
        for key, value in _tuple(namespace.items()):
            if type(value) is ModuleType and _is_copied(value):
                namespace[key] = _copy(value)
        for key in REBOUND_FUNCTIONS.get(name, ()):
            code = namespace[key].__code__
            namespace[key] = FunctionType(code, {"__builtins__": private_builtins})
    return _copies[name]


def _load_again(name: str) -> ModuleType:
    """Returns a second module of that name, which no program knows, with the same cached lines."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    _vars(module)["__builtins__"] = private_builtins
    spec.loader.exec_module(module)
    if name == "linecache":
        _vars(module)["cache"] = _vars(importlib.import_module(name))["cache"]
    return module
