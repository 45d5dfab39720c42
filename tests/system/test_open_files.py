"""A server that may open no more files rests, serves whom it has, and recovers."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from tests.client import Client
from tests.server_process import COMMAND
from tests.waiting import wait_until

HARD_LIMIT = 384
CONNECTIONS = 600  # more than files, and fewer than the system lets wait
SECONDS = 4.0


def limits(pid: int) -> tuple[int, int]:
    """The soft and the hard limit of open files of a process."""
    found = re.search(r"Max open files +(\d+) +(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found is not None
    return int(found[1]), int(found[2])


def test_no_descriptors(tmp_path: Path) -> None:
    """Many connections cost neither the processor nor the log; runs go on; later all is well."""
    log = tmp_path / "log"
    shell = f'ulimit -Sn 128 && ulimit -Hn {HARD_LIMIT} && exec "$0" "$@"'
    command = [
        str(COMMAND), "serve", "--port", "0", "--data-dir", str(tmp_path / "data"),
        "--max-connections", "10000",
    ]  # fmt: skip
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("w"))
        process = stack.enter_context(
            subprocess.Popen(
                ["/bin/sh", "-c", shell, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if "http" in word)
        assert limits(process.pid) == (HARD_LIMIT, HARD_LIMIT)
        client = Client(url)
        client.close()
        limits_of_client = httpx.Limits(keepalive_expiry=60)  # a new connection would have to wait
        client.http = httpx.Client(base_url=url, timeout=60, limits=limits_of_client)
        stack.callback(client.close)
        session = client.session("python")
        assert session.run("import resource\nprint(resource.getrlimit(7))")["exit_code"] == 0
        check_flood(url, client, process.pid, log)
        assert wait_until(lambda: is_well(url), 10)
        assert session.run("print('after')")["stdout"] == "after\n"
        process.terminate()
        assert process.wait(30) == 0


def check_flood(url: str, client: Client, pid: int, log: Path) -> None:
    """Opens connections that say nothing, and measures the server meanwhile."""
    address = httpx.URL(url)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((address.host, address.port))
        time.sleep(1)
        size, used = log.stat().st_size, sum(psutil.Process(pid).cpu_times()[:2])
        time.sleep(SECONDS)
        assert sum(psutil.Process(pid).cpu_times()[:2]) - used < SECONDS / 4
        assert log.stat().st_size - size < 10_000
        assert log.read_text().count("too many open files") == 1
        [one_session] = client.http.get("/api/sessions").json()["sessions"]
        path = f"/api/sessions/{one_session['id']}"
        assert client.http.post(f"{path}/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
        made = client.session("python")  # a kernel more: its files are kept for it
        assert made.run("print(2)")["stdout"] == "2\n"


def is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
