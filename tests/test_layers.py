"""The rooms: who may import whom, and the bounds that keep every room small."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "era_kernels"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))

# The two blocks that the page for newcomers shows: who may import whom, and the picture of it.
PAGE = ROOT / "docs" / "architecture.md"


def block_of(language: str) -> list[str]:
    """The lines of the page's first block of code that is marked with the language."""
    _, _, rest = PAGE.read_text("utf-8").partition(f"```{language}\n")
    return rest.partition("```")[0].splitlines()


def read_table() -> dict[str, frozenset[str]]:
    """From each room to those that it may import: `-` is nothing, `*` everything."""
    rows = [line.partition(":") for line in block_of("rooms")]
    named = {room.strip(): rest.split() for room, _, rest in rows}
    return {
        room: frozenset(named if rest == ["*"] else () if rest == ["-"] else rest)
        for room, rest in named.items()
    }


MAY_IMPORT = read_table()

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
    "concurrency": set(),
    "json_incremental": set(),
    "logs": set(),
    "own_cgroups": set(),
    "netlink": set(),
    "storage/d1/worker": set(),
    "safe_fs": set(),
    "sandbox/linux": set(),
    "sandbox/init": set(),
    "sandbox/server": set(),
}

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
MAX_METHODS = 10  # public ones of a class
MAX_ATTRIBUTES = 12  # of an instance

# Classes past a bound, with their public methods and attributes. A row may only shrink or go.
LARGE_CLASSES = {
    "kernels/active_run.py:ActiveRun": (9, 19),
    "kernels/channel_connection.py:ChannelConnection": (10, 18),
    "kernels/kernel.py:Kernel": (5, 16),
    "sandbox/server/sandbox.py:Sandbox": (10, 17),
    "services/executions/service.py:ExecutionService": (14, 6),
    "services/session/session.py:LiveSession": (16, 8),
    "services/sessions.py:SessionService": (19, 12),
    "storage/group_commit.py:GroupCommitWriter": (4, 14),
    "web/base_handler.py:BaseHandler": (23, 7),
}


# Of the services, the modules that assign to attributes of other objects, and those attributes. A
# row may only shrink or go.
FOREIGN_ASSIGNMENTS = {
    "services/executions/result.py": {"group.count", "group.last_update", "group.size"},
    "services/metrics.py": {"metric.samples"},
    "services/ttl.py": {"self._entries[session_id].last_request_at"},
}


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
        return room_at(self.module.split(".")[1:]) if self.top == PACKAGE else None


def name_of(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).as_posix()


def room_at(parts: Sequence[str]) -> str:
    """The room of a module: the longest beginning of its path that is in the table."""
    paths = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((path for path in paths if path in MAY_IMPORT), paths[-1] if paths else "__init__")


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return room_at(parts[:-1] if parts[-1] == "__init__" else parts)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), file.name)


@functools.cache
def imports_of(file: Path) -> tuple[Import, ...]:
    """Every import, wherever it stands, also those inside functions."""
    return tuple(_find_imports(file, tree_of(file)))


def _find_imports(file: Path, tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name_of(file), node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(file, node)
            for alias in node.names:
                # `from era_kernels import app` names a module, as `import era_kernels.app` does.
                deeper = f"{base}.{alias.name}"
                yield Import(name_of(file), node.lineno, deeper if deeper in MODULES else base)


def _absolute(file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = file.relative_to(ROOT).with_suffix("").parts[: -node.level]
    return ".".join([*parts, *([node.module] if node.module else [])])


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_room_is_in_the_table() -> None:
    """A new room of the package needs a row in the table, and a row needs a room."""
    empty = {"__init__", "sandbox"}  # packages that hold nothing but a docstring
    assert {room_of(file) for file in FILES} - empty == set(MAY_IMPORT)


def test_picture() -> None:
    """The picture's arrows are the imports among the rooms that it shows, every one of them."""
    drawn = {
        (source, target)
        for line in block_of("mermaid")
        for source, arrow, target in [
            line.replace('"', "").split("%%")[0].strip().partition(" --> ")
        ]
        if arrow
    }
    shown = {room for arrow in drawn for room in arrow}
    imported = {
        (room_of(file), one.room)
        for file in FILES
        for one in imports_of(file)
        if one.room and one.room != room_of(file)
    }
    assert drawn == {(a, b) for a, b in imported if a in shown and b in shown}


def test_rings() -> None:
    """Of the services, what knows one execution knows nothing of sessions."""
    files = [file for file in FILES if name_of(file).startswith("services/executions/")]
    assert files
    wrong = [
        one
        for file in files
        for one in imports_of(file)
        if one.module.startswith(f"{PACKAGE}.services.session.")
    ]
    assert wrong == []


def _reached(start: str, imported: Mapping[str, set[str]]) -> set[str]:
    """All modules that a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = [*imported[start]]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imported[module]
    return seen


def test_no_circles() -> None:
    """No modules import each other in a circle, also not for their types alone."""
    imported = {
        module: {one.module for one in imports_of(file) if one.module in MODULES}
        for module, file in MODULES.items()
    }
    assert [module for module in imported if module in _reached(module, imported)] == []


def test_rooms() -> None:
    """A room imports itself and the rooms that the table allows, nothing else of the project."""
    wrong = [
        one
        for file in FILES
        for room in [room_of(file)]
        for one in imports_of(file)
        if one.room and one.room not in MAY_IMPORT.get(room, frozenset()) | {room, "__init__"}
    ]
    assert wrong == []


def _may_import_from_outside(room: str, one: Import) -> bool:
    if room in STANDARD_LIBRARY_ONLY:
        known = sys.stdlib_module_names | STANDARD_LIBRARY_ONLY[room]
        return one.top in known - NEVER.get(room, set())
    return one.top not in NEVER.get(room, set())


def test_outside() -> None:
    """A room does not know of the libraries of other rooms."""
    wrong = [
        one
        for file in FILES
        for one in imports_of(file)
        if one.top != PACKAGE and not _may_import_from_outside(room_of(file), one)
    ]
    assert wrong == []


def test_size() -> None:
    """A file that grows past the bound wants splitting."""
    sizes = {name_of(file): len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FILE} == {}


def test_functions() -> None:
    """A function fits on a screen, docstring and all."""
    sizes = {
        f"{name_of(file)}:{one.name}": (one.end_lineno or one.lineno) - one.lineno + 1
        for file in FILES
        for one in functions_of(tree_of(file))
    }
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION} == {}


def _foreign_assignments(tree: ast.Module) -> set[str]:
    """The attributes that the module sets on anything but `self`."""
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not isinstance(node.ctx, ast.Load)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }


def test_each_object_changes_itself() -> None:
    """Of the services, no module assigns to the attributes of another object: it calls a method."""
    found = {
        name_of(file): _foreign_assignments(tree_of(file))
        for file in FILES
        if name_of(file).startswith("services/")
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == FOREIGN_ASSIGNMENTS


def _methods_of(node: ast.ClassDef) -> set[str]:
    return {
        one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _attributes_of(node: ast.ClassDef) -> set[str]:
    """The names that the class's methods set on `self`."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def test_classes() -> None:
    """A class that grows past the bounds wants splitting; those that are past them may not grow."""
    sizes = {
        f"{name_of(file)}:{node.name}": (
            len([name for name in _methods_of(node) if not name.startswith("_")]),
            len(_attributes_of(node)),
        )
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ClassDef)
    }
    large = {
        name: (methods, attributes)
        for name, (methods, attributes) in sizes.items()
        if methods > MAX_METHODS or attributes > MAX_ATTRIBUTES
    }
    assert large == LARGE_CLASSES


def test_no_language_by_name() -> None:
    """What differs by language lies in kernelspecs/: no other code names one."""
    named = [
        (name_of(file), node.lineno, node.value)
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower() in LANGUAGE_WORDS - MAY_NAME.get(name_of(file), set())
    ]
    assert named == []


def test_purpose() -> None:
    """Every module begins with one sentence that says what it is for."""
    first = {
        name_of(file): (ast.get_docstring(tree_of(file)) or "").partition("\n")[0] for file in FILES
    }
    wrong = {
        name: line
        for name, line in first.items()
        if not line.endswith((".", "?", ":")) and "." not in line
    }
    assert wrong == {}


def test_exceptions_are_in_use() -> None:
    """An exception from a rule names a file that exists."""
    names = {name_of(file) for file in FILES}
    assert {*MAY_NAME} | {row.partition(":")[0] for row in LARGE_CLASSES} <= names


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
