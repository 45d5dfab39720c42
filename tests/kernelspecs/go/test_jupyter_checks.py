"""The kernelspec of Go passes what any client of Jupyter expects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernelspecs.go.toolchain import FOLDER, jupyter_kernelspec, requires_go
from tests.languages.jupyter_checks import CHECKS, JupyterKernel, JupyterPrograms, open_kernel

pytestmark = requires_go

GO = JupyterPrograms(
    kernelspec=FOLDER,
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
    CHECKS[name](shared_kernel, GO)
