"""Every kernelspec passes what any client of Jupyter expects, over ipc and over tcp."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.kernelspecs.deno import toolchain as deno
from tests.kernelspecs.go import toolchain as go
from tests.kernelspecs.node import toolchain as node
from tests.languages.jupyter_checks import CHECKS, JupyterKernel, JupyterPrograms, open_kernel

PYTHON = JupyterPrograms(
    write_kernelspec=lambda _: builtin_dir() / "python",
    language_name="python",
    hello="print('hello')",
    to_stderr="import sys\nprint('problem', file=sys.stderr)",
    assign="a = 1",
    incomplete="def f(",
    syntax_error="def class",
    set_name="a_name_to_complete = 42",
    name="a_name_to_complete",
    name_prefix="a_name_to_com",
    expression="6 * 7",
    rich_expression="from IPython.display import HTML\nHTML('<b>bold</b>')",
    display="from IPython.display import HTML\ndisplay(HTML('<b>bold</b>'))",
    update_display=(
        "from IPython.display import HTML\n"
        "handle = display(HTML('<b>1</b>'), display_id=True)\nhandle.update(HTML('<b>2</b>'))"
    ),
    ask="print(input('name? '))",
    sleep="import time\ntime.sleep(60)",
)
NODE = JupyterPrograms(
    write_kernelspec=lambda directory: node.jupyter_kernelspec("node", directory),
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
    write_kernelspec=lambda directory: node.jupyter_kernelspec("typescript", directory),
    language_name="typescript",
    set_name="let aNameToComplete: number = 42",
)
DENO = replace(
    TYPESCRIPT,
    write_kernelspec=deno.jupyter_kernelspec,
    rich_expression="Deno.jupyter.html`<b>bold</b>`",
    display="await Deno.jupyter.display({ 'text/html': '<b>bold</b>' }, { raw: true })",
    update_display=(
        "await Deno.jupyter.display({ 'text/html': '<b>1</b>' }, { raw: true, display_id: 'a' })\n"
        "await Deno.jupyter.display({ 'text/html': '<b>2</b>' }, { raw: true, display_id: 'a' })"
    ),
    ask="console.log(prompt('name?'))",
)
GO = JupyterPrograms(
    write_kernelspec=go.jupyter_kernelspec,
    language_name="go",
    hello='fmt.Println("hello")',
    to_stderr='fmt.Fprintln(os.Stderr, "problem")',
    assign="a := 1",
    incomplete="func f(",
    syntax_error="a := )",
    set_name="aNameToComplete := 42",
    name="aNameToComplete",
    name_prefix="aNameToCom",
    expression="6 * 7",
    rich_expression=(
        'type Bold struct{ n int }\nfunc (Bold) HTML() string { return "<b>b</b>" }\nBold{1}'
    ),
    display='display.HTML("<b>bold</b>")',
    update_display='place := display.New()\nplace.HTML("<b>1</b>")\nplace.HTML("<b>2</b>")',
    ask=(
        "fmt.Print(\"name? \")\nline, _ := bufio.NewReader(os.Stdin).ReadString('\\n')\n"
        "fmt.Print(line)"
    ),
    sleep="time.Sleep(time.Minute)",
)
KERNELS = [
    pytest.param(PYTHON, id="python"),
    pytest.param(NODE, id="node", marks=node.requires_node),
    pytest.param(TYPESCRIPT, id="typescript", marks=node.requires_node),
    pytest.param(DENO, id="deno", marks=deno.requires_deno),
    pytest.param(GO, id="go", marks=go.requires_go),
]


@pytest.fixture(scope="module", params=KERNELS)
def programs(request: pytest.FixtureRequest) -> JupyterPrograms:
    chosen: JupyterPrograms = request.param
    return chosen


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def shared_kernel(
    request: pytest.FixtureRequest,
    programs: JupyterPrograms,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[JupyterKernel]:
    """One kernel for all checks: each must leave it as it was."""
    directory = tmp_path_factory.mktemp(request.param)
    with open_kernel(programs.write_kernelspec(directory), directory, request.param) as kernel:
        yield kernel


@pytest.mark.parametrize("name", CHECKS)
def test_check(shared_kernel: JupyterKernel, programs: JupyterPrograms, name: str) -> None:
    """The kernel does what the check of that name says."""
    CHECKS[name](shared_kernel, programs)


def test_as_many_as_the_outside_judge() -> None:
    """The table has as many rows as runtimed's kernel-testbed has checks."""
    assert len(CHECKS) == 27
