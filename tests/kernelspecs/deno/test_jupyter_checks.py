"""The kernelspec of Deno passes what any client of Jupyter expects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.kernelspecs.deno.toolchain import jupyter_kernelspec, requires_deno
from tests.languages.jupyter_checks import CHECKS, JupyterKernel, JupyterPrograms, open_kernel

pytestmark = requires_deno

DENO = JupyterPrograms(
    kernelspec=builtin_dir() / "deno",
    language_name="typescript",
    hello="console.log('hello')",
    to_stderr="console.error('problem')",
    assign="var a = 1",
    incomplete="function f(",
    syntax_error="let class = 1",
    set_name="let aNameToComplete: number = 42",
    name="aNameToComplete",
    name_prefix="aNameToCom",
    expression="6 * 7",
    rich_expression="Deno.jupyter.html`<b>bold</b>`",
    display="await Deno.jupyter.display({ 'text/html': '<b>bold</b>' }, { raw: true })",
    update_display=(
        "await Deno.jupyter.display({ 'text/html': '<b>1</b>' }, { raw: true, display_id: 'a' })\n"
        "await Deno.jupyter.display({ 'text/html': '<b>2</b>' }, { raw: true, display_id: 'a' })"
    ),
    ask="console.log(prompt('name?'))",
    sleep="await new Promise((resolve) => setTimeout(resolve, 60_000))",
)


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def shared_kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterKernel]:
    """One kernel for all checks: each must leave it as it was."""
    directory = tmp_path_factory.mktemp(request.param)
    with open_kernel(jupyter_kernelspec(directory), directory, request.param) as kernel:
        yield kernel


@pytest.mark.parametrize("name", CHECKS)
def test_check(shared_kernel: JupyterKernel, name: str) -> None:
    """The kernel does what the check of that name says."""
    CHECKS[name](shared_kernel, DENO)
