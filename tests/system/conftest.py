"""Runs commands of the storage, through a server or on its directory."""

from __future__ import annotations

import shutil
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from era_kernels.cli import main
from tests.server_process import Launcher, temporary_launcher
from tests.system.command_runs import Run


@pytest.fixture(scope="session")
def left_directory() -> Iterator[Path]:
    """A data directory that a server has left, to be copied."""
    with temporary_launcher() as launcher:
        launcher.start().stop()
        yield launcher.data_dir


@pytest.fixture(params=["server", "directory"])
def run(launcher: Launcher, left_directory: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A command, through a server or on the directory that a server has left."""
    where = []
    if request.param == "server":
        where = ["--url", launcher.start().base_url]
    else:
        shutil.copytree(left_directory, launcher.data_dir)

    def run(
        *arguments: object, data: bytes = b"", code: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        runner = CliRunner(env={"ERA_URL": None, "ERA_DATA_DIR": str(launcher.data_dir)})
        words = ["storage", *map(str, arguments)]
        place = words.index("--") if "--" in words else len(words)
        words[place:place] = where
        done = runner.invoke(main, words, input=data)
        assert isinstance(done.exception, SystemExit | None), traceback.format_exception(
            done.exception
        )
        assert done.exit_code == code, done.stderr
        return subprocess.CompletedProcess(
            words, done.exit_code, done.stdout_bytes, done.stderr_bytes
        )

    yield run
