"""The server takes memory from the C library, which gives back what lies between live objects."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from era_kernels.interpreter_malloc import use_c_library
use_c_library()
from era_kernels.sandbox.linux.heap_trimmer import find_trim, keep_little, resident_bytes
keep_little()
before = resident_bytes()
values = [[] for _ in range(1_000_000)]
kept = values[::5000]
del values
find_trim()()
print(sys.getallocatedblocks() == 0, (resident_bytes() - before) >> 20)
print(os.environ.get("PYTHONMALLOC"))
"""


def run(chosen: dict[str, str]) -> list[str]:
    unset = {name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env={**unset, **chosen}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("chosen", [{}, {"PYTHONMALLOC": "malloc"}])
def test_pages_are_given_back(chosen: dict[str, str]) -> None:
    """Of a million lists those pages stay in which one is alive; children inherit nothing."""
    uses_c_library, megabytes, variable = run(chosen)
    assert uses_c_library == "True"
    assert int(megabytes) < 20
    assert variable == "None"


def test_the_choice_of_the_operator_stands() -> None:
    """A server that is told to keep the interpreter's allocator keeps it, and all its arenas."""
    uses_c_library, megabytes, variable = run({"PYTHONMALLOC": "pymalloc"})
    assert uses_c_library == "False"
    assert int(megabytes) > 40
    assert variable == "pymalloc"
