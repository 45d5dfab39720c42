"""Finds Deno, and makes a kernelspec of its kernel that any Jupyter client can start."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain
from tests.languages.jupyter_checks import write_kernelspec


def _find_programs() -> Path | None:
    """Returns the folder of the installed programs and packages."""
    toolchain = find_toolchain(builtin_dir() / "deno", default_toolchain_dir(), (builtin_dir(),))
    if toolchain is None or toolchain.read_installed() is None:
        return None
    return toolchain.directory / "bin"


_BIN = _find_programs()
DENO = None if _BIN is None else _BIN / "deno"
requires_deno = pytest.mark.skipif(DENO is None, reason="Deno is not installed")


def jupyter_kernelspec(directory: Path) -> Path:
    """Returns a folder in which the kernelspec has nothing but Jupyter's own keys."""
    return write_kernelspec("deno", directory, {"{toolchain}/bin": _BIN})
