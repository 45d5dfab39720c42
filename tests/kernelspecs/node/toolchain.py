"""Finds what the kernels need, and makes kernelspecs of them that any Jupyter client can start."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain
from tests.languages.jupyter_checks import write_kernelspec

LANGUAGES = ("node", "typescript")


def _find_toolchain() -> tuple[str | None, Path]:
    """Returns Node and the folder of its packages: the installed ones, else those of the system.

    The variable ERA_TEST_NODE names another Node, to try a version that is not the installed one.
    """
    chosen = os.environ.get("ERA_TEST_NODE")
    toolchain = find_toolchain(builtin_dir() / "node", default_toolchain_dir(), (builtin_dir(),))
    if toolchain is not None and toolchain.read_installed() is not None:
        node = chosen or str(toolchain.directory / "bin" / "node")
        return node, toolchain.directory / "node_modules"
    return chosen or shutil.which("node"), builtin_dir() / "node" / "node_modules"


NODE, MODULES = _find_toolchain()
requires_node = pytest.mark.skipif(
    NODE is None or not (MODULES / "zeromq").is_dir(),
    reason="Node or the packages of its kernel are not installed",
)

# Of the fixture `kernel`: one language alone.
in_node, in_typescript = (
    pytest.mark.parametrize("language", [language], indirect=True) for language in LANGUAGES
)


def jupyter_kernelspec(language: str, directory: Path) -> Path:
    """Returns a folder in which the kernelspec of a language has nothing but Jupyter's own keys."""
    places: dict[str, object] = {
        "{toolchain}/bin/node_modules": MODULES,
        "{toolchain}/bin/node": NODE,
        "{toolchain}/bin": Path(str(NODE)).parent,
    }
    return write_kernelspec(language, directory, places)


def has_in_module(name: str) -> bool:
    """Returns whether this Node's module `module` has a function of that name."""
    probe = f"process.exit(require('module').{name} ? 0 : 1)"
    return NODE is not None and subprocess.run([NODE, "-e", probe], check=False).returncode == 0
