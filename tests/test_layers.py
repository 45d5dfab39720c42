"""The rooms: who may import whom, and the bounds that keep every room small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "era_kernels"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))

BELOW_APP = frozenset(
    {"errors", "models", "steps", "long_json", "setting_types", "settings", "logs"}
    | {"storage", "sandbox", "kernels", "services", "web"}
)

# The table of ARCHITECTURE.md, "Who may import whom". `doctor` and `install` are commands that put
# rooms together, like `app`; `logs` is a part of `cli` that knows only the standard library;
# `setting_types` is the lower half of `settings`; `steps` and `long_json` know
# nothing but time and JSON.
MAY_IMPORT = {
    "errors": frozenset(),
    "models": frozenset(),
    "steps": frozenset(),
    "long_json": frozenset({"steps"}),
    "logs": frozenset(),
    "setting_types": frozenset({"errors"}),
    "settings": frozenset({"setting_types", "errors"}),
    "storage": frozenset({"models", "long_json", "steps", "errors"}),
    "sandbox": frozenset({"models", "errors"}),
    "kernels": frozenset({"sandbox", "models", "long_json", "steps", "errors"}),
    "services": frozenset({"kernels", "storage", "models", "long_json", "steps", "errors"}),
    "web": frozenset({"services", "storage", "models", "long_json", "steps", "errors"}),
    "doctor": BELOW_APP,
    "install": BELOW_APP,
    "app": BELOW_APP,
    "cli": frozenset({"app", "doctor", "install", "logs", "settings", "errors"}),
    "__main__": frozenset({"cli"}),
    "__init__": frozenset(),
}

# What a room must not know of, by the first part of the module's name.
NEVER = {
    "storage": {"tornado", "jupyter_client", "zmq"},
    "kernels": {"sqlite3", "sqlite_utils"},
    "services": {"tornado", "sqlite3", "sqlite_utils", "zmq", "jupyter_client"},
    "web": {"sqlite3", "sqlite_utils", "zmq", "jupyter_client"},
}

# Rooms that use nothing but the standard library, and what of others they may use all the same.
STANDARD_LIBRARY_ONLY = {
    "errors": set(),
    "models": set(),
    "steps": set(),
    "long_json": set(),
    "logs": set(),
    "sandbox": {"pyseccomp"},
}
EXTRA = {"sandbox/server/jupyter_provisioner.py": {"jupyter_client"}}  # the provisioning base

LANGUAGE_WORDS = {
    "python", "py", "node", "js", "javascript", "nodejs", "typescript", "ts", "go", "golang", "deno"
}  # fmt: skip
# File → words it may hold, with the reason beside it.
MAY_NAME: dict[str, set[str]] = {
    "web/execute.py": {"python"},  # the example in the document
    "web/sessions.py": {"python"},  # the same
}

MAX_FILE = 400  # lines
MAX_FUNCTION = 50  # lines

# Modules that read something when they are imported, with the reason.


@dataclass(frozen=True)
class Import:
    """One imported module: `module` is absolute, `room` its room when it is the project's."""

    file: str
    line: int
    module: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def room(self) -> str | None:
        parts = self.module.split(".")
        return (parts[1] if len(parts) > 1 else "__init__") if self.top == PACKAGE else None


def name_of(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).as_posix()


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), file.name)


def imports_of(file: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import, wherever it stands, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name_of(file), node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(file, node)
            for alias in node.names:
                # `from era_kernels import app` names a room just as `import era_kernels.app` does.
                deeper = base == PACKAGE and not alias.name.startswith("__")
                yield Import(name_of(file), node.lineno, f"{base}.{alias.name}" if deeper else base)


def _absolute(file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = file.relative_to(ROOT).with_suffix("").parts[: -node.level]
    return ".".join([*parts, *([node.module] if node.module else [])])


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.fixture(params=FILES, ids=name_of)
def file(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


def test_every_room_is_in_the_table() -> None:
    """A new room at the top of the package needs a row in the table."""
    assert {room_of(file) for file in FILES} <= set(MAY_IMPORT)


def test_rooms(file: Path) -> None:
    """A room imports itself and the rooms that the table allows, nothing else of the project."""
    room = room_of(file)
    allowed = MAY_IMPORT[room] | {room, "__init__"}
    wrong = [one for one in imports_of(file, tree_of(file)) if one.room and one.room not in allowed]
    assert wrong == []


def test_outside(file: Path) -> None:
    """A room does not know of the libraries of other rooms."""
    room = room_of(file)
    mine = EXTRA.get(name_of(file), set())
    never = NEVER.get(room, set()) - mine
    others = [one for one in imports_of(file, tree_of(file)) if one.top != PACKAGE]
    wrong = [one for one in others if one.top in never]
    if room in STANDARD_LIBRARY_ONLY:
        known = sys.stdlib_module_names | STANDARD_LIBRARY_ONLY[room] | mine
        wrong += [one for one in others if one.top not in known]
    assert wrong == []


def test_size(file: Path) -> None:
    """A file that grows past the bound wants splitting."""
    assert len(file.read_text("utf-8").splitlines()) <= MAX_FILE


def test_functions(file: Path) -> None:
    """A function fits on a screen, docstring and all."""
    sizes = {
        one.name: (one.end_lineno or one.lineno) - one.lineno + 1
        for one in functions_of(tree_of(file))
    }
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION} == {}


def test_no_language_by_name(file: Path) -> None:
    """What differs by language lies in kernelspecs/: no other code names one."""
    allowed = MAY_NAME.get(name_of(file), set())
    named = [
        (node.lineno, node.value)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower() in LANGUAGE_WORDS - allowed
    ]
    assert named == []


def test_purpose(file: Path) -> None:
    """Every module begins with one sentence that says what it is for."""
    first = (ast.get_docstring(tree_of(file)) or "").partition("\n")[0]
    assert first.endswith((".", "?", ":")) or "." in first, first


def test_exceptions_are_in_use() -> None:
    """An exception from a rule names a file that exists."""
    names = {name_of(file) for file in FILES}
    assert {*EXTRA, *MAY_NAME} <= names


# Reports what a module of the package reads, opens, starts or connects in its own body. A frame
# of the import machinery between the event and the body means that another import did it.
_WATCH = """
import importlib, sys
import pydantic

pydantic.create_model("Warm")  # the first model of a process looks for plug-ins of pydantic
PACKAGE, seen = sys.argv[1], []

def watch(event, args):
    if event.partition(".")[0] not in {"open", "os", "socket", "subprocess", "sqlite3", "shutil"}:
        return
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return
        if code.co_name == "<module>":
            if f"/{PACKAGE}/" in code.co_filename:
                seen.append(f"{code.co_filename}: {event} {args[:1]}")
            return
        frame = frame.f_back

sys.addaudithook(watch)
for name in sys.argv[2:]:
    importlib.import_module(name)
print("\\n".join(seen), end="")
"""


def test_nothing_happens_at_import() -> None:
    """Importing a module reads no file, opens no socket and starts nothing."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in FILES
        if file.name != "__main__.py"
    ]
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, PACKAGE, *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == []
