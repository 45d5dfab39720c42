#!/usr/bin/env python3
"""Inside: answer a program's input(), show its stack and its variables. Needs httpx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import getpass
def greet():
    name = input("Your name? ")
    print("Hello,", name)
    return name
name = greet()
secret = len(getpass.getpass("Your password? "))
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
            converse(http, path)
            variables = http.get(f"{path}/variables").raise_for_status().json()["variables"]
            shown = {one["name"]: one["value"] for one in variables if "value" in one}
            print("variables:", shown)
            assert shown == {"name": "Ada", "secret": 7}
        finally:
            http.delete(path).raise_for_status()


def converse(http: httpx.Client, path: str) -> None:
    """Follows the program, and answers each of its questions."""
    with http.stream("POST", f"{path}/stream", json={"code": CODE}) as response:
        response.raise_for_status()
        execution = f"{path}/executions/{response.headers['X-Execution-Id']}"
        for event in events(response):
            if event["type"] == "stdout":
                print("it says:", event["content"].rstrip())
            elif event["type"] == "input_request":
                print("it asks:", event["prompt"])
                show_stack(http, execution)
                line = "1234567" if event["password"] else "Ada"
                answer = http.post(f"{execution}/input", json={"value": line})
                assert answer.raise_for_status().json() == {"success": True}
    assert event["exit_code"] == 0


def show_stack(http: httpx.Client, execution: str) -> None:
    """Prints where the program waits, as a traceback does."""
    for frame in http.get(f"{execution}/stack").raise_for_status().json()["frames"]:
        print(f"    {frame['function']}, line {frame['line']}: {frame['source']}")


if __name__ == "__main__":
    main()
