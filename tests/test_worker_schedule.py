"""Tests on many workers: those marked `alone` run when no other does, and skips are checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strict_skips import VARIABLE

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(300)  # a whole run of pytest in each
TESTS = """
import time

import pytest

NAME = __name__

def note(what):
    with open("notes", "a") as file:
        file.write(f"{what} {NAME}\\n")

@pytest.mark.alone
def test_measure():
    note("begin")
    time.sleep(0.1)
    note("end")

@pytest.mark.parametrize("number", range(5))
def test_one(number):
    time.sleep(0.02)
    note("one")
"""


COLUMNS = """
import os

import pytest

ROWS = [pytest.param(c, id=f"{c}-row-{n}") for c in ("one", "two") for n in range(5)]

@pytest.mark.parametrize("column", ROWS)
def test_row(column):
    with open("notes", "a") as file:
        file.write(f"{column} {os.getpid()}\\n")
"""
SKIPPED = "import pytest\npytest.importorskip('no_such_module')\n"
CRASH = """
def test_crash():
    import os
    os._exit(1)
"""


PLUGINS = ("xdist", "tests.strict_skips", "tests.worker_schedule", "tests.stalls")


def run(directory: Path, *flags: str, strict: str = "1") -> subprocess.CompletedProcess[str]:
    """Runs pytest on the tests of a directory, without the plugins that they do not need."""
    plugins = [word for name in (*PLUGINS, "no:cacheprovider") for word in ("-p", name)]
    env = {VARIABLE: strict, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-o", "markers=alone\ntimed", "-o", "faulthandler_timeout=50"]
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, *options, *flags, directory],
            cwd=directory,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    except subprocess.TimeoutExpired as late:  # which does not show what it has
        pytest.fail(f"{late}\n{late.stdout!r}\n{late.stderr!r}")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_alone_comes_last(tmp_path: Path, workers: str) -> None:
    """Tests marked `alone` run one by one after all others, and are in the one summary."""
    for name in "abc":
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    done = run(tmp_path, "-n", workers)
    assert "18 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert [what for what, _ in notes] == ["one"] * 15 + ["begin", "end"] * 3
    assert all(notes[n][1] == notes[n + 1][1] for n in (15, 17, 19))


def test_columns_run_side_by_side(tmp_path: Path) -> None:
    """The rows of a column stay on one worker, and two columns of the table have two."""
    (tmp_path / "test_every_language.py").write_text(COLUMNS)
    done = run(tmp_path, "-n", "2")
    assert "10 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    notes = {tuple(line.split()) for line in (tmp_path / "notes").read_text().splitlines()}
    assert sorted(column for column, _ in notes) == ["one", "two"]
    assert len({process for _, process in notes}) == 2


def test_crash_and_skip_are_reported(tmp_path: Path) -> None:
    """A worker that dies fails its test, a module that skips itself is reported; the rest runs."""
    (tmp_path / "test_a.py").write_text(TESTS + CRASH)
    (tmp_path / "test_b.py").write_text(TESTS)
    done = run(tmp_path, "-n", "2")
    assert "1 failed, 12 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    (tmp_path / "test_c.py").write_text(SKIPPED)
    done = run(tmp_path, "-n", "2")
    assert done.returncode != 0
    assert "unexpected skip" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
