"""What programs put into the places of library functions and builtins does not reach the kernel."""

from __future__ import annotations

import ast
import builtins
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    ExecutionEnd,
    KernelRequest,
    Output,
    Result,
    Stderr,
    Stdout,
)
from tests.kernelspecs.python.conftest import open_machine

PACKAGE = builtin_dir() / "python" / "era_kernel"
LIBRARY_COPIES = runpy.run_path(str(PACKAGE / "library_copies.py"))

# ---------------------------------------------------------------- the source

# Attributes that must be looked up late, since programs set them and mean the kernel to see it.
LATE_ON_PURPOSE = {
    "sys.stdin", "sys.stdout", "sys.stderr", "sys.__stdin__", "sys.__stdout__", "sys.__stderr__",
    "sys.modules", "sys.argv", "sys.meta_path", "sys.path_importer_cache",
    "sys.dont_write_bytecode",
    "sys.excepthook", "sys.__excepthook__", "sys.displayhook", "sys.__displayhook__",
    "sys.unraisablehook", "threading.excepthook",
    "os.environ",  # which a program may replace
    "builtins.input", "builtins.get_ipython", "getpass.getpass",  # set by the kernel
    "inspect.getfile", "os.execv", "os.execve", "signals.signal", "signals.getsignal",
    "asyncio.run", "asyncio.runners", "asyncio.Runner", "asyncio.create_task", "asyncio.tasks",
    "asyncio.events",  # what is set there is the program's
    "sys.last_type", "sys.last_value", "sys.last_traceback", "sys.last_exc",
    "posix._exit", "posix.kill", "posix.abort", "posix.execv", "posix.execve",
    "inspect.getouterframes", "logging.Logger", "warnings.warn", "_warnings.warn",  # set
    "os.close", "os.closerange", "os.dup2", "posix.close", "posix.closerange", "posix.dup2",
    "os._exit", "os.kill", "os.abort", "faulthandler.enable",  # the same
}  # fmt: skip


def find_late_lookups(file: Path) -> Iterator[str]:
    """Yields each `module.attribute` of the standard library that a function looks up."""
    tree = ast.parse(file.read_text("utf-8"))
    modules = {
        (alias.asname or alias.name.partition(".")[0]): alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] in sys.stdlib_module_names
        # The others are copies that no program knows.
        if f"era_kernel.{file.stem}" in LIBRARY_COPIES["PATCHING_MODULES"]
        or alias.name in LIBRARY_COPIES["SHARED_MODULES"]
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        body = function.body if isinstance(function.body, list) else [function.body]
        for node in (found for statement in body for found in ast.walk(statement)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
                and f"{node.value.id}.{node.attr}" not in LATE_ON_PURPOSE
            ):
                yield f"{file.name}:{node.lineno}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.name)
def test_no_late_lookups(file: Path) -> None:
    """No function of the kernel looks an attribute of a library module up when it is called."""
    assert not sorted(set(find_late_lookups(file)))


# ---------------------------------------------------------------- the behaviour

PREPARE = """\
import asyncio, builtins, collections, contextlib, contextvars, datetime, functools, gc, getpass
import hashlib, hmac, inspect, io, json, linecache, logging, os, pathlib, re, select, signal, sys
import threading, time, tokenize, traceback, types, uuid, warnings
honest_print, honest_setattr, callers = print, setattr, []
def make(kind):
    def wrong(*args, **kwargs):
        callers.append(sys._getframe(1).f_code.co_filename)
        if kind == 'raises': raise RuntimeError('mocked')
        if kind == 'exits': raise SystemExit(9)
    return wrong
"""
KERNEL_PARTS = (
    "era_kernel",
    "IPython",
    "ipykernel",
    "jupyter_client",
    "traitlets",
    "/zmq/",
    "comm/",
)

MODULE_TARGETS = [
    "time.sleep", "time.time", "time.perf_counter", "json.dumps", "json.loads",
    "json.JSONEncoder.default", "json.JSONEncoder.encode", "json.JSONEncoder.iterencode",
    "json.JSONDecoder.decode", "json.encoder.c_make_encoder",
    "os.getpid", "os.write", "os.read", "os.close", "os.dup2", "os.pipe2", "os.stat", "os.fstat",
    "os.getcwd", "os.urandom", "os.eventfd_write", "os.path.join", "os.path.exists",
    "os.set_blocking",
    "threading.current_thread", "threading.get_ident", "threading.enumerate",
    "threading.main_thread",
    "threading.Lock", "datetime.datetime", "uuid.uuid4", "hmac.new",
    "hashlib.sha256", "select.poll", "select.epoll", "signal.signal", "signal.getsignal",
    "signal.pthread_sigmask", "traceback.TracebackException", "traceback.format_exc",
    "traceback.StackSummary.extract", "linecache.getlines", "linecache.getline",
    "linecache.checkcache", "linecache.updatecache", "tokenize.open", "collections.deque",
    "contextlib.suppress", "contextlib.contextmanager", "pathlib.Path.cwd", "re.compile",
    "inspect.isawaitable", "logging.getLogger", "warnings.warn", "gc.collect", "functools.partial",
    "asyncio.current_task", "io.TextIOWrapper", "io.open", "types.ModuleType", "getpass.getpass",
]  # fmt: skip
LOOP_TARGETS = ["time.monotonic"]
BUILTIN_TARGETS = [
    f"builtins.{name}"
    for name in (
        "len", "isinstance", "issubclass", "open", "__import__", "print", "getattr", "setattr",
        "hasattr", "callable", "sorted", "repr", "str", "bytes", "int", "bool", "dict", "list",
        "tuple", "set", "frozenset", "type", "map", "filter", "zip", "range", "min", "max", "sum",
        "any", "all", "next", "iter", "id", "hash", "vars", "compile", "eval", "exec", "super",
        "property", "Exception", "BaseException", "SystemExit", "KeyboardInterrupt", "SyntaxError",
        "__build_class__", "memoryview", "reversed", "enumerate", "format", "input",
    )
    if hasattr(builtins, name)
]  # fmt: skip
SETTINGS = {
    "trace": "def trace(*a): seen[0] += 1\nseen = [0]\nsys.settrace(trace)",
    "profile": "def trace(*a): seen[0] += 1\nseen = [0]\nsys.setprofile(trace)",
    "trace of threads": "def trace(*a): raise RuntimeError\nthreading.settrace(trace)",
    "low recursion limit": "sys.setrecursionlimit(60)",
    "no collection": "gc.disable()",
    "long switches": "sys.setswitchinterval(100)",
}


async def run(machine: Machine, code: str) -> tuple[str, str, list[object], ExecutionEnd]:
    """Returns stdout, stderr, results and the end of a run."""
    items: list[Output | ExecutionEnd] = []
    async for batch in machine.kernel.execute(KernelRequest(code, {}, 20, 1)):
        items += batch
    end = items[-1]
    assert isinstance(end, ExecutionEnd)
    stdout = "".join(item.content for item in items if isinstance(item, Stdout))
    stderr = "".join(item.content for item in items if isinstance(item, Stderr))
    results = [item.data["text/plain"] for item in items if isinstance(item, Result)]
    return stdout, stderr, results, end


async def check_replaced(host: Machines, replace: str, restore: str) -> None:
    """Runs a program that leaves something replaced, and three more while it is."""
    async with open_machine(host) as machine:
        await run(machine, PREPARE)
        stdout, stderr, results, end = await run(
            machine, f"{replace}\nhonest_print('out')\nhonest_print('err', file=sys.stderr)\n42"
        )
        assert (stdout, stderr, results, end.exit_code) == ("out\n", "err\n", ["42"], 0)
        stdout, stderr, _, end = await run(machine, "honest_print('whole')")
        assert (stdout, stderr, end.exit_code) == ("whole\n", "", 0)
        stdout, stderr, _, end = await run(machine, "def f():\n    1 / 0\nf()")
        assert stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
        assert "    1 / 0" in stderr.splitlines()
        assert (stdout, end.exit_code) == ("", 1)
        stdout, stderr, _, end = await run(machine, f"{restore}\nhonest_print(callers)")
        assert end.exit_code == 0, stderr
        callers = ast.literal_eval(stdout)
        seen = [name for name in callers if any(part in name for part in KERNEL_PARTS)]
        assert not seen


@pytest.mark.parametrize("kind", ["returns None", "raises"])
@pytest.mark.parametrize(
    "target",
    [
        *MODULE_TARGETS,
        *LOOP_TARGETS,
        *(pytest.param(target, marks=pytest.mark.long) for target in BUILTIN_TARGETS),
    ],
)
async def test_replaced(host: Machines, target: str, kind: str) -> None:
    """A function that is replaced for good changes nothing of later runs, nor is it called."""
    owner, _, name = target.rpartition(".")
    replace = f"saved = {target}\nhonest_setattr({owner}, '{name}', make('{kind}'))"
    await check_replaced(host, replace, f"honest_setattr({owner}, '{name}', saved)")


@pytest.mark.parametrize("name", SETTINGS)
async def test_settings_left_behind(host: Machines, name: str) -> None:
    """Tracing, profiling and odd limits that a program leaves behind do the kernel no harm."""
    restore = "sys.settrace(None); sys.setprofile(None); sys.setrecursionlimit(1000)"
    await check_replaced(host, SETTINGS[name], restore)


async def test_builtins_are_the_programs_own(host: Machines) -> None:
    """The program's own builtins are the real ones, and what it adds to them is there."""
    code = (
        "import builtins, sys\n"
        "print(__builtins__ is builtins, 'library_copies' in repr(sys.meta_path))\n"
        "builtins.added = 5\nprint(added, eval('added'), [added for _ in 'a'])\n"
        "class A: value = added\nprint(A.value)\nexec('print(added)')\n"
        "exec('print(added)', {})\nbuiltins.len = lambda _: 7\nprint(len(''))"
    )
    async with open_machine(host) as machine:
        stdout, stderr, _, _ = await run(machine, code)
        assert (stdout, stderr) == ("True False\n5 5 [5]\n5\n5\n5\n7\n", "")


@pytest.mark.parametrize("name", ["settrace", "setprofile"])
async def test_tracing_comes_off(host: Machines, name: str) -> None:
    """A trace function that a program leaves behind sees nothing of later runs."""
    async with open_machine(host) as machine:
        await run(machine, f"def f(*a): seen[0] += 1\nimport sys; seen = [0]; sys.{name}(f)")
        first, *_ = await run(machine, "print(seen)")
        assert await run(machine, "print(seen)") == (first, "", [], ExecutionEnd(0))
