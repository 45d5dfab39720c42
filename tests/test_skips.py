"""Unexpected skips fail where the environment says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_worker_schedule import run

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


@pytest.mark.parametrize(
    ("value", "code", "summary"),
    [("", 0, "1 passed, 2 skipped, 1 xfailed"), ("1", 1, "1 passed, 1 skipped, 1 xfailed")],
)
def test_strict(tmp_path: Path, value: str, code: int, summary: str) -> None:
    """With the variable set an unexpected skip is a failure, without it a skip."""
    (tmp_path / "test_some.py").write_text(TESTS, "utf-8")
    done = run(tmp_path, "-n", "0", strict=value)
    assert done.returncode == code, done.stdout
    assert summary in done.stdout.splitlines()[-1]
    assert ("unexpected skip" in done.stdout) == bool(value)


def test_a_module_that_skips_itself(tmp_path: Path) -> None:
    """A whole module that is skipped counts as well."""
    text = "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n"
    (tmp_path / "test_some.py").write_text(text, "utf-8")
    done = run(tmp_path, "-n", "0")
    assert done.returncode != 0
    assert "unexpected skip" in done.stdout
