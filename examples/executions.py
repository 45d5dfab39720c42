#!/usr/bin/env python3
"""Executions: leave a run alone, come back to it, read on where you left off. Needs httpx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import time
for number in range(6):
    print("step", number, flush=True)
    time.sleep(0.2)
"""


def frames(response: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each event's number and its data."""
    number = 0
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = int(line.removeprefix("id: "))
        elif line.startswith("data: "):
            yield number, json.loads(line.removeprefix("data: "))


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()


def use(http: httpx.Client, path: str) -> None:
    """Starts a run, leaves, and comes back."""
    with http.stream("POST", f"{path}/stream", json={"code": CODE}) as response:
        execution = response.raise_for_status().headers["X-Execution-Id"]
        seen, event = next(frames(response))
    print(f"{execution}: left after event {seen}, {event['content']!r}")

    execution_path = f"{path}/executions/{execution}"
    so_far = http.get(execution_path).raise_for_status().json()
    print(f"meanwhile it is {so_far['status']}")

    headers = {"Last-Event-ID": str(seen)}
    with http.stream("GET", f"{execution_path}/stream", headers=headers) as response:
        remaining = list(frames(response.raise_for_status()))
    numbers = [number for number, _ in remaining]
    print(f"came back for events {numbers[0]} to {numbers[-1]}")
    assert numbers == list(range(seen + 1, numbers[-1] + 1))
    assert remaining[-1][1]["type"] == "done"

    answer = http.get(execution_path, params={"wait": 10}).raise_for_status().json()
    print(f"it {answer['status']} with exit code {answer['exit_code']}")
    assert answer["stdout"] == "".join(f"step {number}\n" for number in range(6))

    first_bytes = http.get(f"{execution_path}/stdout", headers={"Range": "bytes=0-5"})
    print(f"the first bytes of its output: {first_bytes.text!r}")
    assert (first_bytes.status_code, first_bytes.text) == (206, "step 0")

    listed = http.get(f"{path}/executions").raise_for_status().json()
    print(f"executions of the session: {listed['count']} of {listed['total']}")
    assert [one["execution_id"] for one in listed["executions"]] == [execution]


if __name__ == "__main__":
    main()
