#!/usr/bin/env python3
"""The log: what a session prints between its runs, read and followed live. Needs httpx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
TICKER = """
import threading, time
def tick():
    for number in range(5):
        time.sleep(0.2)
        print("tick", number)
threading.Thread(target=tick, daemon=True).start()
"""
CRASH = """
import ctypes, threading, time
def crash():
    time.sleep(0.3)
    ctypes.string_at(0)
threading.Thread(target=crash, daemon=True).start()
"""


def frames(response: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each entry's number and its content."""
    number = 0
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = int(line.removeprefix("id: "))
        elif line.startswith("data: "):
            yield number, json.loads(line.removeprefix("data: "))


def follow(http: httpx.Client, path: str, after: int, until: str) -> int:
    """Prints entries until one contains the text, and returns that entry's number."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with http.stream("GET", f"{path}/log", headers=headers) as response:
        for number, entry in frames(response.raise_for_status()):
            print(f"  {number} {entry['time']} {entry['type']}: {entry['content']!r}")
            if until in entry["content"]:
                return number
    raise RuntimeError("the log ended")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()


def use(http: httpx.Client, path: str) -> None:
    """Leaves a thread running, and shows its output in the log."""
    run = http.post(f"{path}/run", json={"code": TICKER}).raise_for_status().json()
    print(f"the run printed {run['stdout']!r}; its thread goes on:")
    last = follow(http, path, after=0, until="tick 2")

    run = http.post(f"{path}/run", json={"code": "print('a run')"}).raise_for_status().json()
    print(f"the next run printed {run['stdout']!r}; the log goes on after {last}:")
    assert run["stdout"] == "a run\n"
    last = follow(http, path, after=last, until="tick 4")

    http.post(f"{path}/run", json={"code": CRASH}).raise_for_status()
    print("a thread crashes the kernel when nothing runs:")
    follow(http, path, after=last, until="process ended: signal 11 (SIGSEGV)")

    log = http.get(f"{path}/log").raise_for_status().json()
    text = "".join(one["content"] for one in log["entries"] if one["stream"] == "stdout")
    print(f"in all: {text!r}, truncated: {log['truncated']}")
    assert text == "".join(f"tick {number}\n" for number in range(5))


if __name__ == "__main__":
    main()
