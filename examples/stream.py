#!/usr/bin/env python3
"""Stream: output as it is printed, as server-sent events. Needs httpx."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import sys, time
for number in range(5):
    print(f"Processing {number}")
    time.sleep(0.2)
print("and a word on stderr", file=sys.stderr)
"""


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yields each event's data; other lines (ids, names, comments) are skipped."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            follow(http, path)
        finally:
            http.delete(path).raise_for_status()


def follow(http: httpx.Client, path: str) -> None:
    """Prints each event with the time of its arrival."""
    began = time.monotonic()
    printed, last = "", {}
    with http.stream("POST", f"{path}/stream", json={"code": CODE}) as response:
        response.raise_for_status()
        for event in events(response):
            last = event
            if event["type"] in ("stdout", "stderr"):
                printed += event["content"]
                print(f"{time.monotonic() - began:5.2f} s  {event['type']}  {event['content']!r}")
    print(f"{last['type']}: exit code {last['exit_code']} after {last['duration']}")
    assert (last["type"], last["exit_code"]) == ("done", 0)
    assert printed.startswith("Processing 0\n")
    assert "Processing 4\n" in printed


if __name__ == "__main__":
    main()
