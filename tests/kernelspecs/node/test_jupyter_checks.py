"""The kernelspecs of Node and TypeScript pass what any client of Jupyter expects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.kernelspecs.node.toolchain import jupyter_kernelspec, requires_node
from tests.languages.jupyter_checks import CHECKS, JupyterKernel, JupyterPrograms, open_kernel

pytestmark = requires_node

NODE = JupyterPrograms(
    kernelspec=builtin_dir() / "node",
    language_name="javascript",
    hello="console.log('hello')",
    to_stderr="console.error('problem')",
    assign="var a = 1",
    incomplete="function f(",
    syntax_error="let class = 1",
    set_name="let aNameToComplete = 42",
    name="aNameToComplete",
    name_prefix="aNameToCom",
    expression="6 * 7",
    rich_expression="({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': '<b>bold</b>' }) })",
    display="display.html('<b>bold</b>')",
    update_display=(
        "const { newDisplay } = require('tslab')\n"
        "const place = newDisplay()\nplace.html('<b>1</b>')\nplace.html('<b>2</b>')"
    ),
    ask=(
        "const lines = require('readline').createInterface(process.stdin, process.stdout)\n"
        "lines.question('name? ', (name) => { console.log(name); lines.close() })"
    ),
    sleep="await new Promise((resolve) => setTimeout(resolve, 60_000))",
)
TYPESCRIPT = replace(
    NODE,
    kernelspec=builtin_dir() / "typescript",
    language_name="typescript",
    set_name="let aNameToComplete: number = 42",
)


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module", params=[NODE, TYPESCRIPT], ids=["node", "typescript"])
def programs(request: pytest.FixtureRequest) -> JupyterPrograms:
    chosen: JupyterPrograms = request.param
    return chosen


@pytest.fixture(scope="module")
def shared_kernel(
    programs: JupyterPrograms, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterKernel]:
    """One kernel for all checks: each must leave it as it was."""
    directory = tmp_path_factory.mktemp(transport)
    kernelspec = jupyter_kernelspec(programs.kernelspec.name, directory)
    with open_kernel(kernelspec, directory, transport) as kernel:
        yield kernel


@pytest.mark.parametrize("name", CHECKS)
def test_check(shared_kernel: JupyterKernel, programs: JupyterPrograms, name: str) -> None:
    """The kernel does what the check of that name says."""
    CHECKS[name](shared_kernel, programs)
