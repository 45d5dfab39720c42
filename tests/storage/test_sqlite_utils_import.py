"""sqlite_utils comes alone, and what it would bring along can still be had."""

from __future__ import annotations

import subprocess
import sys

import pytest


def output(program: str) -> str:
    """What another interpreter prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_server_does_not_load_pandas() -> None:
    """Nor numpy: it has no use for them."""
    loaded = "import sys; from era_kernels import app; print({'pandas', 'numpy'} & {*sys.modules})"
    assert output(loaded) == "set()\n"


def test_they_can_be_loaded_later() -> None:
    """Nothing is hidden but while sqlite_utils is imported."""
    pytest.importorskip("numpy", reason="numpy is not installed")
    assert output("import era_kernels.storage.database, numpy; print(bool(numpy))") == "True\n"


def test_what_is_loaded_already_stays() -> None:
    """Modules that were loaded before stay loaded."""
    program = (
        "import sys, types; sys.modules['pandas'] = types.ModuleType('pandas');"
        "sys.modules['pandas'].Timestamp = int;"
        "from era_kernels.storage import sqlite_utils_import;"
        "print(sys.modules['pandas'].Timestamp)"
    )
    assert output(program) == "<class 'int'>\n"
