#!/usr/bin/env python3
"""Exec: programs beside the kernel, also while it is busy. Needs httpx."""

from __future__ import annotations

import os
import threading
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
READ = """
import time, urllib.request
for attempt in range(100):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8000/hello.txt").read().decode(), end="")
        break
    except OSError:
        time.sleep(0.05)
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()


def execute(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """Runs a program and returns its result."""
    answer: dict[str, Any] = http.post(f"{path}/exec", json=body).raise_for_status().json()
    return answer


def use(http: httpx.Client, path: str) -> None:
    answer = execute(http, path, command="echo hello > hello.txt; cat hello.txt | tr a-z A-Z")
    print(f"a command: {answer['stdout']!r}, files modified: {answer['files_modified']}")
    assert answer["stdout"] == "HELLO\n"

    answer = execute(http, path, argv=["sort", "-n"], stdin="10\n9\n")
    print(f"a program that reads: {answer['stdout']!r}")
    assert answer["stdout"] == "9\n10\n"

    execute(http, path, command="mkdir -p app && echo 'all:; pwd' > app/Makefile")
    answer = execute(http, path, command="basename $PWD; ls", cwd="app")
    print(f"in a directory of its own: {answer['stdout']!r}")
    assert answer["stdout"] == "app\nMakefile\n"

    body = {"command": "echo 1; sleep 0.2; echo 2"}
    with http.stream("POST", f"{path}/exec/stream", json=body) as stream:
        kinds = [line for line in stream.iter_lines() if line.startswith("event: ")]
    print(f"its events, as they come: {kinds}")
    assert kinds[-1] == "event: done"

    started = execute(http, path, command="sleep 0.2; echo later", background=True)
    execution = f"{path}/executions/{started['execution_id']}"
    answer = http.get(execution, params={"wait": 20}).raise_for_status().json()
    print(f"in the background: {answer['stdout']!r}")
    assert answer["stdout"] == "later\n"

    answer = execute(http, path, argv=["no-such-program"])
    print(f"not found: {answer['exit_code']}, {answer['stderr']!r}")
    assert answer["exit_code"] == 127

    server = "nohup python3 -m http.server 8000 --bind 127.0.0.1 > server.log 2>&1 &"
    assert execute(http, path, command=server)["exit_code"] == 0
    answer = http.post(f"{path}/run", json={"code": READ}).raise_for_status().json()
    print(f"the kernel, from the server that was left behind: {answer['stdout']!r}")
    assert answer["stdout"] == "hello\n"

    busy = {"code": "import time; time.sleep(2)"}
    run = threading.Thread(target=http.post, args=(f"{path}/run",), kwargs={"json": busy})
    run.start()
    answer = execute(http, path, command="echo at once")
    print(f"while the kernel is busy: {answer['stdout']!r} after {answer['duration']}")
    assert answer["stdout"] == "at once\n"
    run.join()


if __name__ == "__main__":
    main()
