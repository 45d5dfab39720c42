"""`make serve`: the server is up while languages are being installed, and takes that with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.install.places import Place, step
from tests.install.test_install import running_with

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("is_killed", [False, True], ids=["Ctrl-C", "SIGKILL"])
def test_serve(place: Place, is_killed: bool) -> None:
    """The server answers before the installation ends, which ends with it however that ends."""
    seconds = f"9877{int(is_killed)}"
    place.add("alpha", step("endless", f"sleep {seconds}", "x"))
    place.add("beta", step("failing", "exit 1", "x"))
    _, env = place.command()
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS"):  # of the `make` that runs the tests
        env.pop(name, None)
    stamp = f"{sys.prefix}/.installed"
    log = place.root / "log"
    with log.open("w") as stderr:
        make = subprocess.Popen(
            ["make", "--silent", f"VENV={sys.prefix}", "-o", stamp, "serve"],
            cwd=ROOT,
            env={**env, "ERA_PORT": "0", "ERA_DATA_DIR": str(place.root / "data")},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert make.stdout is not None
    ready = make.stdout.readline()
    url = next(word for word in ready.split() if word.startswith("http://"))
    while not running_with(seconds):
        time.sleep(0.1)
    assert httpx.get(f"{url}/health").json()["languages"]["alpha"] is False
    if is_killed:
        os.kill(_child_of(make.pid), signal.SIGKILL)
    else:
        os.killpg(make.pid, signal.SIGINT)
    rest, _ = make.communicate(timeout=30)
    assert rest == ""
    while running_with(seconds):
        time.sleep(0.1)
    lines = log.read_text().splitlines()
    assert {"alpha: endless", "beta: failing"} <= set(lines)


def _child_of(pid: int) -> int:
    """The one child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
