"""Tells whether what the kernel needs is there: Node, and the packages beside its code."""

from __future__ import annotations

import shutil

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir

NODE = shutil.which("node")
HAS_PACKAGES = (builtin_dir() / "node" / "node_modules" / "zeromq").is_dir()
requires_node = pytest.mark.skipif(
    NODE is None or not HAS_PACKAGES, reason="Node or the packages of its kernel are not installed"
)
