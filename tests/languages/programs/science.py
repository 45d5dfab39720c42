"""The programs of a stock kernel: the ipykernel of another Python environment."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from tests.languages.programs.python import PROGRAMS as PYTHON
from tests.languages.stock_kernels import make_environment

NAME = "science"
FOLDER = Path("share", "jupyter")  # Jupyter's data directory in an environment


def add_to(directory: Path) -> Path:
    """Makes an environment and has its ipykernel install its kernelspec there."""
    environment = make_environment(directory / NAME)
    python = environment / "bin" / "python"
    subprocess.run(
        [python, "-m", "ipykernel", "install", "--sys-prefix", "--name", NAME],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return environment / FOLDER


NO_EXIT_CODE = "Jupyter's protocol has no exit code: a program that exits has 1"
NO_ENV = "a kernel without a fence takes no variables for one run: 400"

PROGRAMS = replace(
    PYTHON,
    column=NAME,
    kernel=NAME,
    capabilities=frozenset({"interrupt", "rich_output", "state"}),
    add_to=add_to,
    failing_line="line 3",
    does_not_hold={
        "both_streams_in_order": "it collects stdout and stderr apart, for a fifth of a second",
        "late_output": "it says that what a thread prints is of the run under way",
        "exit_code": NO_EXIT_CODE,
        "exit_nested": NO_EXIT_CODE,
        "exit_keeps_state": NO_EXIT_CODE,
        "environment": NO_ENV,
        "previous_environment": NO_ENV,
        "era_variables_hold": NO_ENV,
        "invalid_utf8": "its `sys.stdout` has no `buffer`",
        "edited_module": "it imports a module once, as Jupyter does",
        "storage": "the package `era_storage` is that of the server's own Python kernel",
    },
    untried={"child_output": "what a child prints may come later than what is printed next"},
)
