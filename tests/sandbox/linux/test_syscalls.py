"""System calls: descriptors are closed and counted, errors are OSError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.sandbox.linux import syscalls
from tests.sandbox.init.test_reaper import ROOT


@pytest.mark.parametrize("old", [False, True])
def test_everything_is_closed_but_what_is_kept(old: bool) -> None:
    """close_except keeps exactly its list, with and without close_range(2)."""
    code = f"""
import os
from era_kernels.sandbox.linux import syscalls
if {old}:
    syscalls.SYS_CLOSE_RANGE = -1
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
syscalls.close_except((0, 1, 2, many[7], many[30], many[31]))
assert syscalls.list_descriptors() == {{0, 1, 2, many[7], many[30], many[31]}}
syscalls.close_except((2, 1, 0))
assert syscalls.list_descriptors() == {{0, 1, 2}}
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_threads_are_counted() -> None:
    """threads counts what the system sees."""
    assert syscalls.count_threads() == len(list(Path("/proc/self/task").iterdir()))


def test_a_refused_prctl_is_an_error() -> None:
    """prctl raises OSError with the system's number."""
    with pytest.raises(OSError, match="prctl"):
        syscalls.prctl(-1)
