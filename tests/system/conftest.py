"""Runs commands of the storage, through a server or on its directory."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from era_kernels.cli import main
from tests.client import Client, SessionClient
from tests.server_process import Launcher, Server, temporary_launcher

Run = Callable[..., subprocess.CompletedProcess[bytes]]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def left_directory() -> Iterator[Path]:
    """A data directory that a server has left, to be copied."""
    with temporary_launcher() as launcher:
        launcher.start().stop()
        yield launcher.data_dir


@pytest.fixture(params=["server", "directory"])
def run(launcher: Launcher, left_directory: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A command, through the module's server or on the directory that a server has left.

    On the server each test has namespaces of its own.
    """
    where, data_dir, own_names = [], launcher.data_dir, {}
    if request.param == "server":
        server: Server = request.getfixturevalue("server")
        where, data_dir = ["--url", server.base_url], server.data_dir
        own_names = {name: f"{name}-{next(_numbers)}" for name in ("space", "copy")}
    else:
        shutil.copytree(left_directory, data_dir)

    def run(
        *arguments: object, data: bytes = b"", code: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        runner = CliRunner(env={"ERA_URL": None, "ERA_DATA_DIR": str(data_dir)})
        words = ["storage", *(own_names.get(word, word) for word in map(str, arguments))]
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


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("python")
    yield session
    session.delete()
