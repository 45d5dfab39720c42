"""Unexpected skips fail where the environment says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strict_skips import VARIABLE

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.skip(reason="Docker is not here")
def test_expected(): pass

@pytest.mark.skip(reason="forgot to install it")
def test_unexpected(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False

def test_good(): pass
"""


def run(tests: Path, value: str) -> subprocess.CompletedProcess[str]:
    """Pytest on a directory of tests, with the variable set to that value."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.strict_skips",
            "-p",
            "no:cacheprovider",
            tests,
        ],
        cwd=ROOT,
        env={**os.environ, VARIABLE: value, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("value", "code", "summary"),
    [("", 0, "1 passed, 2 skipped, 1 xfailed"), ("1", 1, "1 passed, 1 skipped, 1 xfailed")],
)
def test_strict(tmp_path: Path, value: str, code: int, summary: str) -> None:
    """With the variable set an unexpected skip is a failure, without it a skip."""
    (tmp_path / "test_some.py").write_text(TESTS, "utf-8")
    done = run(tmp_path, value)
    assert done.returncode == code, done.stdout
    assert summary in done.stdout.splitlines()[-1]
    assert ("unexpected skip" in done.stdout) == bool(value)


def test_a_module_that_skips_itself(tmp_path: Path) -> None:
    """A whole module that is skipped counts as well."""
    text = "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n"
    (tmp_path / "test_some.py").write_text(text, "utf-8")
    done = run(tmp_path, "1")
    assert done.returncode != 0
    assert "unexpected skip" in done.stdout
