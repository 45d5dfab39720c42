"""Rewrites the assertions of tests once for all workers (a plugin of pytest).

pytest keeps a module whose assertions it has rewritten beside the others that Python has compiled.
Where none is kept, as in a new checkout, each worker would rewrite all modules for itself, which
takes longer than all else that it does before its first test. Here the process that starts the
workers does it before, with a child for each processor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

PATTERNS = ("test_*.py", "conftest.py")


def pytest_configure(config: pytest.Config) -> None:
    """Rewrites what the workers are going to import, in the process that starts them."""
    starts_workers = getattr(config.option, "dist", "no") != "no"
    if not starts_workers or hasattr(config, "workerinput") or sys.dont_write_bytecode:
        return
    if config.getoption("assertmode") != "rewrite":
        return
    files = find_tests(config)
    stale = [file for file in files if rewrite._read_pyc(file, kept_file(file)) is None]
    count = len(os.sched_getaffinity(0))
    children = [
        fork_to_rewrite(stale[number::count], config) for number in range(min(count, len(stale)))
    ]
    for pid in children:
        os.waitpid(pid, 0)


def find_tests(config: pytest.Config) -> Iterator[Path]:
    """Finds the modules of tests below what the command line names."""
    for argument in config.args:
        path = config.invocation_params.dir / argument.split("::")[0]
        if path.is_file():
            yield path
        for pattern in PATTERNS:
            yield from path.rglob(pattern)


def kept_file(file: Path) -> Path:
    """Returns where pytest keeps a rewritten module."""
    return rewrite.get_cache_dir(file) / f"{file.stem}{rewrite.PYC_TAIL}"


def fork_to_rewrite(files: Sequence[Path], config: pytest.Config) -> int:
    """Forks a child that rewrites modules; returns its pid.

    What cannot be rewritten is left to the workers, which tell why.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        state = config.stash[rewrite.assertstate_key]
        for file in files:
            kept_file(file).parent.mkdir(exist_ok=True)
            source, code = rewrite._rewrite_test(file, config)
            rewrite._write_pyc(state, code, source, kept_file(file))
    finally:
        os._exit(0)
