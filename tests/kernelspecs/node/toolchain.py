"""Tells whether what the kernel needs is there: Node, and the packages beside its code."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir

NODE = shutil.which("node")
HAS_PACKAGES = (builtin_dir() / "node" / "node_modules" / "zeromq").is_dir()
requires_node = pytest.mark.skipif(
    NODE is None or not HAS_PACKAGES, reason="Node or the packages of its kernel are not installed"
)


def can_transform_types() -> bool:
    """Returns whether this Node transforms TypeScript when it runs a file."""
    probe = "process.exit(require('module').stripTypeScriptTypes ? 0 : 1)"
    return NODE is not None and subprocess.run([NODE, "-e", probe], check=False).returncode == 0
