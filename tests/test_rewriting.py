"""Tests are rewritten once, before the workers start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.test_worker_schedule import ROOT

# The process that starts the workers tells what is kept before it does so.
CONFTEST = """
from pathlib import Path

def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        files = Path("__pycache__").glob("*-pytest-*.pyc")
        kept = sorted(file.name.split(".")[0] for file in files)
        Path("kept").write_text(" ".join(kept))
"""
FAILING = "def test_one():\n    one = 1\n    assert one == 2\n"


def run(directory: Path, *flags: str) -> str:
    """Runs the tests of a directory; returns what pytest prints."""
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.rewriting"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *flags, directory],
        cwd=directory,
        env={**env, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_tests_are_rewritten_before_workers_start(tmp_path: Path) -> None:
    """All modules are kept then; a failure tells the values; a wrong module is reported."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a.py").write_text(FAILING)
    (tmp_path / "test_b.py").write_text(FAILING)
    assert "assert 1 == 2" in run(tmp_path, "-n", "1")
    assert (tmp_path / "kept").read_text() == "conftest test_a test_b"
    (tmp_path / "test_a.py").write_text(FAILING.replace("2", "3"))
    (tmp_path / "test_b.py").write_text("def test_one(:\n")
    printed = run(tmp_path, "-n", "1")
    assert "SyntaxError" in printed
    (tmp_path / "test_b.py").unlink()
    assert "assert 1 == 3" in run(tmp_path, "-n", "1")
