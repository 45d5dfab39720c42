"""Nothing hangs everybody when the zygote is stopped or dead: others go on."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.client import SessionClient
from tests.server_process import Launcher
from tests.waiting import wait_until

TOLD = 15.0  # seconds within which everything is answered, on a busy host


@pytest.fixture
def session(launcher: Launcher) -> SessionClient:
    return launcher.start().connect().session("python")


def zygote_of(launcher: Launcher) -> psutil.Process:
    """Returns the zygote: the child whose command line names its module."""
    server = psutil.Process(launcher.servers[-1].process.pid)
    return next(
        one for one in server.children() if any("init.zygote" in word for word in one.cmdline())
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_zygote_that_does_not_serve(
    launcher: Launcher, session: SessionClient, number: signal.Signals
) -> None:
    """A new one is there without any start, and a session that runs goes on."""
    assert session.run("x = 1")["exit_code"] == 0
    old = zygote_of(launcher)
    old.send_signal(number)
    assert wait_until(lambda: not old.is_running(), TOLD)
    assert wait_until(lambda: session.http.get("/health").status_code == 200, TOLD)
    assert zygote_of(launcher).pid != old.pid
    assert session.run("print(x)")["stdout"] == "1\n"
    made = session.http.post("/api/sessions", json={"language": "python"})
    assert made.status_code == 201, made.text
