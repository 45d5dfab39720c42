"""Measures how soon a change of a session's internet access is in force, while code runs.

`python -m benchmarks.internet` as root prints the table. The world is a small internet of
namespaces; the session is busy with a loop, and another thread of it connects without a pause.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import Row, ms

ROUNDS = 10
TARGET = 0.1  # seconds
# Code of the session: notes when connections begin to succeed, and when they begin to fail.
PROBE = """
import json, os, socket, threading, time
noted = []
def by_packets():
    socket.create_connection((PUBLIC, 8000), timeout=1).close()
def by_proxy():
    with socket.create_connection(("127.0.0.1", 61788), timeout=1) as end:
        end.sendall(f"CONNECT {PUBLIC}:8000 HTTP/1.1\\r\\nHost: {PUBLIC}\\r\\n\\r\\n".encode())
        if b" 200 " not in end.recv(64):
            raise PermissionError
def probe():
    was_open = None
    while not is_over:
        try:
            connect()
            is_open = True
        except OSError:
            is_open = False
        if is_open is not was_open:
            noted.append([is_open, time.clock_gettime(time.CLOCK_MONOTONIC)])
            was_open = is_open
        time.sleep(0.0005)
is_over = False
probing = threading.Thread(target=probe)
probing.start()
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    sum(range(1000))
is_over = True
probing.join()
print(json.dumps(noted))
"""
WAYS = {"packets": "by_packets", "the proxy": "by_proxy"}


def rows() -> Iterator[Row]:
    """Measures in a process of its own, which becomes a host with a network of its own."""
    if os.geteuid() != 0 or shutil.which("pasta") is None or shutil.which("ip") is None:
        yield Row("internet access switched on a busy session", "needs root, passt, iproute2")
        return
    command = [sys.executable, "-m", "benchmarks.internet", "inside"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield Row("internet access switched on a busy session", done.stderr.strip()[-60:])
        return
    for line in done.stdout.splitlines():
        found = json.loads(line)
        for what in ("answer", "effect"):
            for state in ("on", "off"):
                seconds = sorted(found[f"{state} {what}"])
                worst = seconds[-1]
                label = f"internet {state}, {found['way']}: " + (
                    "PATCH answers" if what == "answer" else "in force"
                )
                figure = f"{ms(median(seconds))} (≤ {ms(worst)})"
                yield Row(label, figure, "≤ 100 ms", median(seconds) <= TARGET)


def _measure_way(client: Any, way: str, public: str) -> dict[str, Any]:
    """Switches a busy session's access on and off, and compares both clocks: they are one."""
    found: dict[str, Any] = {"way": way}
    found.update(
        {f"{state} {what}": [] for state in ("on", "off") for what in ("answer", "effect")}
    )
    session = client.session("python")
    seconds = ROUNDS * 2.0 + 3
    code = f"PUBLIC, SECONDS = {public!r}, {seconds}\n{PROBE}".replace(
        "connect()", f"{WAYS[way]}()"
    )
    started = session.http.post(f"{session.path}/run", json={"code": code, "background": True})
    time.sleep(1)
    asked = []
    for number in range(2 * ROUNDS):
        is_on = number % 2 == 0
        began = time.monotonic()
        answer = session.http.patch(session.path, json={"allowInternetAccess": is_on})
        answer.raise_for_status()
        found[f"{'on' if is_on else 'off'} answer"].append(time.monotonic() - began)
        asked.append((is_on, began))
        time.sleep(max(0, 1.0 - (time.monotonic() - began)))
    execution = started.json()["execution_id"]
    ended = session.http.get(f"{session.path}/executions/{execution}?wait=60", timeout=90).json()
    noted = json.loads(ended["stdout"])
    for is_on, began in asked:
        changed = next((at for state, at in noted if state is is_on and at > began), began + 1)
        found[f"{'on' if is_on else 'off'} effect"].append(min(1.0, changed - began))
    session.delete()
    return found


def _run_inside() -> None:
    from tests.client import Client
    from tests.egress import small_internet
    from tests.server_process import temporary_launcher

    world = small_internet.make()
    with temporary_launcher() as launcher:
        client = Client(launcher.start().base_url)
        for way in WAYS:
            print(json.dumps(_measure_way(client, way, small_internet.PUBLIC)), flush=True)
    world.kill()


if __name__ == "__main__":
    if sys.argv[1:] == ["inside"]:
        _run_inside()
    else:
        for row in rows():
            print(row)
