"""Runs and sessions survive killed processes, vanished clients and stopped servers."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import httpx
import psutil
import pytest

from tests.client import SessionClient
from tests.server_process import (
    PRINT_PID,
    UNSANDBOXED_FLAGS,
    Launcher,
    Server,
    command_line,
    host_pid,
)
from tests.waiting import wait_until

PID = "import os\nprint(os.getpid())"


def kernel_pid(session: SessionClient) -> int:
    """Returns the kernel's pid on the host."""
    return host_pid(session.run(PRINT_PID)["stdout"])


def test_kill_between_answered_writes(launcher: Launcher) -> None:
    """Answered writes are there after a kill -9 of the server, round after round."""
    known: dict[str, Any] = {}
    for number in range(5):
        client = launcher.start().connect()
        for name, data in known.items():
            assert client.http.get(f"/api/sessions/{name}").json()["data"] == data
        session = client.session("python", session_id=f"s{number}", data={"number": number})
        session.run("x = 1", update_data={"ran": True})
        client.http.patch(session.path, json={"metadata": {"label": number}}).raise_for_status()
        known[session.id] = {"number": number, "ran": True}
        launcher.servers[-1].kill()
    client = launcher.start().connect()
    listed = client.http.get("/api/sessions").json()["sessions"]
    assert [(s["id"], s["metadata"]) for s in listed] == [
        (f"s{number}", {"label": number}) for number in range(5)
    ]


def test_kill_of_the_server_leaves_no_process(launcher: Launcher) -> None:
    """A kill -9 of the server in the middle of a run takes kernels and their children along."""
    server = launcher.start()
    client = server.connect()
    session = client.session("python")
    with session.open_stream(
        "import subprocess, time\nsubprocess.Popen(['sleep', '600.25'])\nprint(1, flush=True)\n"
        "time.sleep(600)"
    ) as events:
        next(events)
        family = [*psutil.Process(server.process.pid).children(recursive=True)]
        assert any(command_line(process) == ["sleep", "600.25"] for process in family)
        server.kill()
        with pytest.raises(httpx.HTTPError):
            list(events)
    assert wait_until(lambda: not [p for p in family if p.is_running()], 5)


def test_kill_of_a_kernel_in_a_run(session: SessionClient) -> None:
    """The run of a killed kernel ends at once and tells how; the next one works."""
    pid = kernel_pid(session)
    killer = threading.Timer(0.5, lambda: psutil.Process(pid).kill())
    killer.start()
    began = time.monotonic()
    answer = session.run("import time\nprint('here')\ntime.sleep(60)")
    killer.join()
    assert time.monotonic() - began < 5
    assert (answer["stdout"], answer["exit_code"]) == ("here\n", 137)
    assert (answer["state"], answer["cause"]) == ("lost", "signal 9 (SIGKILL)")
    after = session.run("print('next')")
    assert (after["stdout"], after["started_from"]) == ("next\n", "fresh")


def test_kill_of_a_kernel_between_runs(session: SessionClient) -> None:
    """A kernel that dies idle is noticed without a request, and the next run has a fresh one."""
    session.run("x = 1")
    psutil.Process(kernel_pid(session)).kill()
    assert wait_until(lambda: session.get()["status"] == "stopped", 5)
    after = session.run("print('x' in globals())")
    assert (after["stdout"], after["exit_code"]) == ("False\n", 0)
    assert (after["started_from"], after["kernel_generation"]) == ("fresh", 2)


def test_a_client_that_vanishes(server: Server, session: SessionClient) -> None:
    """A run goes on without its client, and all of its output can be read afterwards."""
    body = '{"code":"import time\\nfor n in range(20):\\n    print(n)\\n    time.sleep(0.05)"}'
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        head = f"POST {session.path}/stream HTTP/1.1\r\nHost: {host}:{port}\r\n"
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert b"event: stdout" in wire.recv(65536) + wire.recv(65536)
    [execution] = session.http.get(f"{session.path}/executions").json()["executions"]
    path = f"{session.path}/executions/{execution['execution_id']}"
    answer = session.http.get(path, params={"wait": 20}).json()
    assert (answer["status"], answer["exit_code"]) == ("finished", 0)
    assert answer["stdout"] == "".join(f"{n}\n" for n in range(20))


def test_sigterm_ends_what_does_not_end(launcher: Launcher) -> None:
    """A run past the grace ends with 137 and the cause, and the server leaves with 0."""
    server = launcher.start("--shutdown-grace", "0.5")
    client = server.connect()
    session = client.session("python")
    with session.open_stream("import time\nprint('on')\ntime.sleep(600)") as events:
        next(events)
        began = time.monotonic()
        server.process.terminate()
        rest = list(events)
    assert [frame.event for frame in rest[-2:]] == ["error", "done"]
    assert rest[-2].data["code"] == "SERVER_STOPPED"
    assert (rest[-1].data["exit_code"], rest[-1].data["cause"]) == (137, "server stopped")
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 10


def test_a_second_server_is_refused(launcher: Launcher) -> None:
    """Two servers never share a data directory: the second prints why and exits."""
    launcher.start()
    with pytest.raises(RuntimeError, match=r"(?i)data directory"):
        launcher.start()


def test_no_secret_gets_out(launcher: Launcher) -> None:
    """Code, values of env and tokens stand in no log, in no row and in no event log.

    A kernel's environment is built from empty: nothing of the server's is in it.
    """
    token = "tok-0123456789abcdef"
    server = launcher.start(env={"ERA_API_TOKENS": token, "MY_SECRET": "leaked"})
    client = server.connect({"Authorization": f"Bearer {token}"})
    session = client.session("python")
    session.run("secret_code_word = 1; raise SystemExit(3)", env={"KEY": "secret-env-value"})
    session.http.post(f"{session.path}/run", content=b'{"code": "secret_code_word", ').read()
    session.http.get("/api/sessions?token=secret-query-word")
    answer = session.run(
        "import os, glob\nprint(dict(os.environ))\n"
        "print(open('/proc/self/environ').read(), open('/proc/self/cmdline').read())"
    )
    assert answer["exit_code"] == 0
    assert token not in answer["stdout"]
    assert "MY_SECRET" not in answer["stdout"]
    assert server.stop() == 0
    for word in (token, "secret_code_word", "secret-env-value", "secret-query-word"):
        assert word not in server.log_text
    stored = b"".join(p.read_bytes() for p in server.data_dir.rglob("*") if p.is_file())
    assert b"secret-env-value" not in stored
    assert token.encode() not in stored


def test_the_generation_outlives_a_kill_in_the_first_moment_of_a_run(launcher: Launcher) -> None:
    """The next run reports lost variables, and files that were to go with the kernel are gone."""
    server = launcher.start(*UNSANDBOXED_FLAGS)  # for the code is what kills it
    client = server.connect()
    session = client.session("python", persistent=False)
    with pytest.raises(httpx.HTTPError):
        session.run(f"import os\nopen('f', 'w').close()\nos.kill({server.process.pid}, 9)")
    client = launcher.start().connect()
    shown = client.http.get(session.path).json()
    assert (shown["kernel_generation"], shown["files"]) == (1, [])
    again = client.http.post(f"{session.path}/run", json={"code": "pass"}).json()
    assert again["kernel_generation"] == 2
