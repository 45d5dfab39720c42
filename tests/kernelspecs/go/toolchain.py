"""Finds what the kernel needs, and makes a kernelspec of it that any Jupyter client can start."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain
from tests.languages.jupyter_checks import write_kernelspec

FOLDER = builtin_dir() / "go"
_toolchain = find_toolchain(FOLDER, default_toolchain_dir(), (builtin_dir(),))
_is_installed = _toolchain is not None and _toolchain.read_installed() is not None
TOOLCHAIN = _toolchain.directory if _toolchain is not None and _is_installed else None
requires_go = pytest.mark.skipif(TOOLCHAIN is None, reason="Go is not installed")


def jupyter_kernelspec(directory: Path) -> Path:
    """Returns a folder in which the kernelspec has nothing but Jupyter's own keys."""
    return write_kernelspec("go", directory, {"{toolchain}": TOOLCHAIN})
