"""How the server ends: in order at the first signal, at once at the second."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server_process import COMMAND, Launcher, command_line
from tests.waiting import wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_grace(launcher: Launcher, number: signal.Signals) -> None:
    """Runs may finish; meanwhile /health tells that the server stops, and new runs are refused.

    Nothing is left, and the exit code is 0.
    """
    server = launcher.start("--shutdown-grace", "20")
    client = server.connect()
    session, other = client.session("python"), client.session("python")
    answers = []
    secret = "print('secret'); import time; time.sleep(2.5); print('done')"
    thread = threading.Thread(target=lambda: answers.append(session.run(secret)))
    thread.start()
    assert wait_until(lambda: session.get()["status"] == "busy")
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert family
    server.process.send_signal(number)
    assert wait_until(lambda: client.http.get("/health").status_code == 503)
    health = client.http.get("/health")
    assert health.json()["status"] == "stopping"
    assert health.headers["Retry-After"]
    assert httpx.get(f"{server.base_url}/health").status_code == 503  # a new connection
    refused = client.http.post(f"{other.path}/run", json={"code": "1"})
    assert (refused.status_code, refused.json()["code"]) == (503, "SHUTTING_DOWN")
    thread.join()
    assert answers[0]["stdout"] == "secret\ndone\n"
    assert server.process.wait(30) == 0
    assert not [process for process in family if process.is_running()]
    stopping = next(line for line in server.log_text.splitlines() if '"stopping"' in line)
    assert '"running": 1' in stopping
    assert '"waiting": 0' in stopping
    assert "secret" not in server.log_text


def test_a_second_signal_ends_at_once(launcher: Launcher) -> None:
    """It does not wait for runs, and nothing of the sessions is left."""
    server = launcher.start("--shutdown-grace", "60")
    client = server.connect()
    session = client.session("python")
    code = "import subprocess, time\nsubprocess.Popen(['sleep', '600.75'])\ntime.sleep(600)"

    def run() -> None:
        try:
            session.run(code)
        except httpx.HTTPError:
            return

    thread = threading.Thread(target=run)
    thread.start()
    process = psutil.Process(server.process.pid)
    family: list[psutil.Process] = []

    def has_child() -> bool:
        family[:] = process.children(recursive=True)
        return any(command_line(one) == ["sleep", "600.75"] for one in family)

    assert wait_until(has_child, 20)
    server.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: "stopping" in server.log_text)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(5) == 128 + signal.SIGINT
    thread.join()
    assert wait_until(lambda: not [one for one in family if one.is_running()], 5)
    launcher.start()


def test_nohup(tmp_path: Path) -> None:
    """A SIGHUP that is ignored, as nohup(1) has it, stays ignored."""
    with subprocess.Popen(
        ["nohup", COMMAND, "serve", "--port", "0", "--data-dir", str(tmp_path / "data")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if "http" in word)
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.5)
        assert httpx.get(f"{url}/health").status_code == 200
        process.terminate()
        assert process.wait(30) == 0
