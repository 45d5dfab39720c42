"""What a program does to its own process: it is told truly, and the session stays usable."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kernelspecs.node.test_plain_node import execute, run_both
from tests.kernelspecs.node.toolchain import (
    has_in_module,
    in_node,
    jupyter_kernelspec,
    requires_node,
)
from tests.languages.jupyter_checks import JupyterKernel, open_kernel

pytestmark = requires_node

MEMORY_RISE_MB = 120
# Programs, how many lines they write, and how a line begins on stdout and on stderr.
LINES = {
    "alternating": (
        "for (let n = 0; n < 40000; n++) { console.log(`out ${n}`); console.error(`err ${n}`) }",
        40_000,
        ("out", "err"),
    ),
    "one stream": (
        "for (let n = 0; n < 300000; n++) console.log(`line ${n}`)",
        300_000,
        ("line",),
    ),
}
METHODS = {
    "Function.prototype": ("call", "bind", "apply"),
    "Array.prototype": ("pop", "push", "map", "slice"),
    "Promise.prototype": ("then", "catch"),
    "Object": ("defineProperty", "keys", "entries", "assign"),
    "JSON": ("stringify",),
    "Reflect": ("apply",),
}
CHANGES = {
    "null": "{0}.{1} = null",
    "throws": "{0}.{1} = () => {{ throw new Error('broken') }}",
    "deleted": "delete {0}.{1}",
}
BROKEN = [
    (change.format(owner, name), f"{owner}, '{name}'")
    for owner, names in METHODS.items()
    for name in names
    for change in CHANGES.values()
]
USING = {
    "top level": "using one = made('one'), two = made('two'); console.log('body')",
    "await": "await using one = later('one'); await using two = later('two'); console.log('body')",
    "block": "{ using one = made('one'); console.log('body') } console.log('end')",
    "loop": "for (await using one of [later(1), later(2)]) console.log('body')",
    "caught": (
        "try { using one = made('one', true); throw new Error('body') }"
        " catch (error) { console.log(error.name, error.suppressed.message) }"
    ),
    "exit": "await using one = later('one'); process.exit(3)",
}
MADE = (
    "const made = (name, fails) => ({ [Symbol.dispose]() {"
    " console.log('closed', name); if (fails) throw new Error(name) } })\n"
    "const later = (name) => ({ async [Symbol.asyncDispose]() {"
    " console.log('closing', name); await null; console.log('closed', name) } })\n"
)


def pss_mb(kernel: JupyterKernel) -> int:
    text = Path(f"/proc/{kernel.manager.provisioner.pid}/smaps_rollup").read_text()
    return next(int(one.split()[1]) for one in text.splitlines() if one.startswith("Pss:")) // 1024


@pytest.mark.parametrize("kind", LINES)
def test_memory_of_many_lines(tmp_path: Path, kind: str) -> None:
    """All of many short lines come, and the process does not grow by what was written."""
    code, count, words = LINES[kind]
    written = ["".join(f"{word} {n}\n" for n in range(count)) for word in words]
    stdout, stderr = (*written, "")[:2]
    with open_kernel(jupyter_kernelspec("node", tmp_path), tmp_path, "ipc") as kernel:
        execute(kernel, "1")
        before = pss_mb(kernel)
        assert execute(kernel, code)[0] == (stdout, stderr, 0)
        assert pss_mb(kernel) - before < MEMORY_RISE_MB


@in_node
@pytest.mark.parametrize(("change", "method"), BROKEN)
def test_broken_methods(kernel: JupyterKernel, change: str, method: str) -> None:
    """A program that breaks a built-in method prints all the same, and so do the next runs."""
    keep = (
        f"var put = Object.defineProperty, kept = Object.getOwnPropertyDescriptor({method}); null"
    )
    assert execute(kernel, keep)[0] == ("", "", 0)
    assert execute(kernel, f"{change}; console.log('same')", ends=True)[0][0] == "same\n"
    assert execute(kernel, "console.log('alive')", ends=True)[0] == ("alive\n", "", 0)
    _, stderr, code = execute(kernel, "throw new Error('told')", ends=True)[0]
    assert (code, "told" in stderr) == (1, True)
    assert execute(kernel, f"put({method}, kept); null")[0] == ("", "", 0)


@pytest.mark.skipif(not has_in_module("registerHooks"), reason="this Node may not know `using`")
@in_node
@pytest.mark.parametrize("name", USING)
def test_using(kernel: JupyterKernel, tmp_path: Path, name: str) -> None:
    """What a cell uses is disposed of as in a module of plain Node."""
    expected, found = run_both(kernel, tmp_path, "main", MADE + USING[name])
    assert found == expected


@pytest.mark.parametrize("first", [0, 1])
def test_closed_standard_streams(tmp_path: Path, first: int) -> None:
    """A program that closes its standard streams ends, and the next run prints."""
    close = f"for (let fd = {first}; fd <= 2; fd++) require('fs').closeSync(fd)"
    with open_kernel(jupyter_kernelspec("node", tmp_path), tmp_path, "ipc") as kernel:
        begin = time.monotonic()
        ended = execute(kernel, f"console.log('before'); {close}", ends=True)[0]
        assert ended == ("before\n", "", 0)
        assert execute(kernel, "console.log('alive')", ends=True)[0] == ("alive\n", "", 0)
        assert time.monotonic() - begin < 5
