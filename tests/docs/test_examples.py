"""The examples work unchanged against a real server, and clean up after themselves."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.client import Client
from tests.server_process import Server

DIRECTORY = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(file for file in DIRECTORY.iterdir() if file.suffix in (".py", ".sh"))
CLOSED_PORT_URL = "http://127.0.0.1:9"  # a port on which nothing listens
Ended = subprocess.CompletedProcess[str]


def run(example: Path, url: str) -> Ended:
    """Runs the example with the server's address in ERA_URL; one of Python in this process.

    An interpreter of its own would spend most of the time on the import of httpx.
    """
    if example.suffix == ".sh":
        return run_program(example, url)
    printed, warned, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(warned):
        patch.setenv("ERA_URL", url)
        try:
            runpy.run_path(str(example), run_name="__main__")
        except (Exception, SystemExit):
            traceback.print_exc()
            code = 1
    return Ended([], code, printed.getvalue(), warned.getvalue())


def run_program(example: Path, url: str) -> Ended:
    """Runs the example as a user would."""
    if example.suffix == ".sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    interpreter = "sh" if example.suffix == ".sh" else sys.executable
    return subprocess.run(
        [interpreter, str(example)],
        env={**os.environ, "ERA_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(server: Server, client: Client, example: Path) -> None:
    """An example ends well, prints what it did, and leaves no session behind."""
    ended = run(example, server.base_url)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert len(ended.stdout.splitlines()) >= 4
    assert client.http.get("/api/resources/stats").json()["total"] == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_without_a_server(example: Path) -> None:
    """An example that cannot reach the server fails."""
    assert run(example, CLOSED_PORT_URL).returncode != 0


def test_as_a_program(server: Server) -> None:
    """An example is a program of its own, whose exit code tells how it ended."""
    example = DIRECTORY / "execute.py"
    for url, is_reached in ((server.base_url, True), (CLOSED_PORT_URL, False)):
        ended = run_program(example, url)
        assert (ended.returncode == 0, ended.stderr == "") == (is_reached, is_reached)


def test_every_section_has_an_example() -> None:
    """There is one example for each section of the API, and one for the shell."""
    assert {example.stem for example in EXAMPLES} >= {
        "exec", "execute", "sessions", "run_and_state", "stream", "executions", "duplicate",
        "files", "stored_code", "d1", "log", "tour", "inside", "r2", "storage",
    }  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_address(example: Path) -> None:
    """An example takes the address from ERA_URL, else the server's default one."""
    text = example.read_text()
    assert "ERA_URL" in text
    assert "http://127.0.0.1:8787" in text
