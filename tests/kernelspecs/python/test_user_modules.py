"""The kernel's own package shadows no module of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from tornado.ioloop import IOLoop

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.kernels.machine import Machine
from tests.kernels.test_machine import run as run_in_machine
from tests.kernelspecs.python.test_standard_client import run as run_in_jupyter

NAMES = "main", "shell", "sockets", "stdio", "inspection", "tracebacks"  # also era_kernel's
WRITE_MODULES = f"""\
from pathlib import Path
for name in {NAMES}:
    _ = Path(f"{{name}}.py").write_text(f"OWNER = 'user of {{name}}'")
"""
IMPORT_MODULES = f"""\
import {", ".join(NAMES)}
print([{", ".join(f"{name}.OWNER" for name in NAMES)}])
"""
PRINT_SYS_PATH = "import json, sys\nprint(json.dumps(sys.path))"

Run = Callable[[str], str]  # runs code and returns its stdout


@pytest.fixture(params=["session", "jupyter"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs code in a session's kernel, or in one that jupyter_client started."""
    if request.param == "session":
        io_loop: IOLoop = request.getfixturevalue("io_loop")
        machine: Machine = request.getfixturevalue("machine")
        return lambda code: io_loop.run_sync(lambda: run_in_machine(machine, code))[0]
    kernel: BlockingKernelClient = request.getfixturevalue("kernel")

    def run_code(code: str) -> str:
        _, messages = run_in_jupyter(kernel, code)
        return "".join(content["text"] for kind, content in messages if kind == "stream")

    return run_code


def test_modules_of_the_workspace(run: Run) -> None:
    """A module of the user's is imported as such, also under a name that the kernel's own has."""
    assert run(WRITE_MODULES) == ""
    assert run(IMPORT_MODULES) == f"{[f'user of {name}' for name in NAMES]}\n"
    assert "ZeroDivisionError" in run("try:\n    1 / 0\nexcept Exception as e:\n    print(repr(e))")


def test_sys_path(run: Run) -> None:
    """sys.path begins with the working directory; of a kernelspec it holds at most the SDK."""
    first, *rest = json.loads(run(PRINT_SYS_PATH))
    assert first == ""
    kernelspecs = builtin_dir().resolve()
    inside = {path for path in rest if Path(path).resolve().is_relative_to(kernelspecs)}
    assert inside <= {str(kernelspecs / "python" / "sdk")}


def test_changed_module_that_many_were_imported_after(run: Run) -> None:
    """A module is read again however many came after it, in the same run and in later ones."""
    write = "from pathlib import Path\nlength = Path('early.py').write_text('VALUE = {}')\n"
    assert run(write.format(1) + "for n in range(99): Path(f'late_{n}.py').touch()") == ""
    many = "import importlib\nfor n in range({}): importlib.import_module(f'late_{{n}}')\n"
    assert run("import early\n" + many.format(90) + "print(early.VALUE)") == "1\n"
    assert run(many.format(99) + write.format(22)) == ""
    assert run("import early\nprint(early.VALUE)") == "22\n"
