#!/usr/bin/env python3
"""A run in the background: begun once however often asked, then interrupted. Needs httpx."""

from __future__ import annotations

import os
import uuid

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import time
steps = 0
while True:
    steps += 1
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


def use(http: httpx.Client, path: str) -> None:
    """Starts a run, repeats the request as after a broken connection, interrupts, and looks."""
    http.post(f"{path}/run", json={"code": "pass"}).raise_for_status()
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"code": CODE, "background": True}
    started, again = (http.post(f"{path}/run", json=body, headers=headers) for _ in range(2))
    assert started.status_code == 202
    assert again.json() == started.json()
    execution_path = f"{path}/executions/{started.json()['execution_id']}"
    print("it runs once, as", started.json()["execution_id"])

    running = http.get(execution_path, params={"wait": 0.5}).raise_for_status().json()
    assert running["status"] == "running"
    ended = http.post(f"{execution_path}/interrupt").raise_for_status().json()
    print("interrupted:", ", ".join(step["action"] for step in ended["steps"]))
    assert ended["state"] == "preserved"

    answer = http.get(execution_path).raise_for_status().json()
    print("its exit code:", answer["exit_code"])
    assert answer["exit_code"] == 130
    counted = http.post(f"{path}/run", json={"code": "print(steps > 0)"}).raise_for_status().json()
    print("its variables are there:", counted["stdout"].strip())
    assert counted["stdout"] == "True\n"


if __name__ == "__main__":
    main()
