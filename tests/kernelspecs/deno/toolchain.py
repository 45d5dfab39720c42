"""Finds Deno, and makes a kernelspec of its kernel that any Jupyter client can start."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain


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
    source = builtin_dir() / "deno"
    text = (source / "kernel.json").read_text(encoding="utf-8")
    for placeholder, value in {
        "{toolchain}/bin": str(_BIN),
        "{resource_dir}": str(source),
        "{cache}": str(directory / "cache"),
    }.items():
        text = text.replace(placeholder, value)
    folder = directory / "kernelspec"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(text, encoding="utf-8")
    return folder
