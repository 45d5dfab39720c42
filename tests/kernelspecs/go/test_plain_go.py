"""Whole programs print, and end, as they do by the go command."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client, SessionClient
from tests.kernelspecs.go.programs import PROGRAMS
from tests.kernelspecs.go.toolchain import TOOLCHAIN, requires_go

pytestmark = requires_go

DATA = "line of data.txt\n"
# Of addresses, offsets and numbers that differ between two builds of a program.
_VOLATILE = re.compile(r"\+?0x[0-9a-f]+\??|goroutine \d+|pc=\S+|sp=\S+|fp=\S+|addr=\S+")
_STATUS = re.compile(r"^exit status (\d+)\n\Z", re.MULTILINE)


@pytest.fixture(scope="module")
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("go")
    session.http.put(f"{session.path}/files/data.txt", content=DATA.encode()).raise_for_status()
    yield session
    session.delete()


@pytest.fixture(scope="module")
def workspace(session: SessionClient) -> str:
    """The directory in which programs of the session run."""
    return str(session.run("wd, _ := os.Getwd()\nfmt.Print(wd)")["stdout"])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    (directory / "data.txt").write_text(DATA)
    return directory


def run_plain(directory: Path, source: str) -> tuple[str, str, int]:
    """Returns what `go run` shows of a program, and the program's own exit code."""
    (directory / "main.go").write_text(source)
    assert TOOLCHAIN is not None
    cache = directory.parent / "go-cache"
    env = {
        "PATH": f"{TOOLCHAIN}/bin:{os.environ['PATH']}",
        "HOME": str(directory.parent),
        "GOCACHE": str(cache),
        "GOCACHEPROG": f"{TOOLCHAIN}/bin/gocache -shared {TOOLCHAIN}/std/cache -own {cache}",
        "GOENV": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    done = subprocess.run(
        ["go", "run", "main.go"],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    told = _STATUS.search(done.stderr)
    stderr = _STATUS.sub("", done.stderr)
    return done.stdout, stderr, int(told[1]) if told else done.returncode


def normalise(text: str, directory: str) -> str:
    """Returns what a program printed without its place and without addresses."""
    return _VOLATILE.sub("#", text.replace(f"{directory}/", "/"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(session: SessionClient, workspace: str, directory: Path, name: str) -> None:
    """A program prints what it prints by `go run`, and has the exit code of the built program."""
    answer = session.run(PROGRAMS[name], timeout=60)
    stdout, stderr, exit_code = run_plain(directory, PROGRAMS[name])
    assert answer["stdout"] == normalise(stdout, str(directory))
    assert normalise(answer["stderr"], workspace) == normalise(stderr, str(directory))
    assert answer["exit_code"] == exit_code
