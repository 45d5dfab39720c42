#!/usr/bin/env python3
"""Run: variables, files and data live on from run to run. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str, code: str, **options: Any) -> dict[str, Any]:
    """Runs code and returns the result, also that of a timeout (status 408)."""
    response = http.post(f"{path}/run", json={"code": code, **options})
    if response.status_code != 408:
        response.raise_for_status()
    return dict(response.json())


def use(http: httpx.Client, path: str) -> None:
    """Sends one run after the other to a session."""
    run(http, path, "total = 40")
    answer = run(http, path, "total += 2\nprint(total)")
    print(f"state: {answer['stdout']!r}, the kernel was {answer['started_from']}")
    assert (answer["stdout"], answer["started_from"]) == ("42\n", "live")

    answer = run(http, path, "total / 0")
    print(f"an error: {answer['exception']['name']}, exit code {answer['exit_code']}")
    assert (answer["exit_code"], answer["state"]) == (1, "preserved")

    answer = run(http, path, "total * 2")
    print(f"the last expression: {answer['results'][0]['data']['text/plain']}")
    assert answer["results"][0]["data"]["text/plain"] == "84"

    code = """
import json
data = json.load(open(".session_data.json"))
data["runs"] += 1
json.dump(data, open(".session_data.json", "w"))
"""
    answer = run(http, path, code, update_data={"runs": 1})
    print(f"data: {answer['data']}")
    assert answer["data"] == {"runs": 2}

    answer = run(http, path, "while True: pass", timeout=0.5)
    print(f"an endless loop: {answer['code']}, exit code {answer['exit_code']}")
    assert answer["exit_code"] == 124

    answer = run(http, path, "import os; os._exit(7)")
    print(f"a kernel that died: {answer['cause']}, variables {answer['state']}")
    assert (answer["cause"], answer["state"]) == ("exit 7", "lost")

    answer = run(http, path, "print('total' in globals())")
    print(f"the next run: the kernel was {answer['started_from']}")
    assert (answer["stdout"], answer["started_from"]) == ("False\n", "fresh")
    print(f"and is told why: {answer['notices'][0]}")
    assert answer["notices"] == ["variables were lost: the kernel ended: exit 7"]

    http.post(f"{path}/restart").raise_for_status()
    print(f"after a restart: {run(http, path, 'pass')['notices'][0]}")
    assert run(http, path, "pass").get("notices") is None


if __name__ == "__main__":
    main()
